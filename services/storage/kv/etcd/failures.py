"""What the failure of a call to etcd means for the request, and for the caller. Pure, but for grpc's status codes."""

from __future__ import annotations

import enum

import grpc

from services.storage.kv.base import KvError, RequestError, StorageError


class Verdict(enum.Enum):
    """What is known of a request after its call failed."""

    # etcd considered it and says no.
    ANSWERED = 0
    # It was not carried out and never will be.
    NOT_DONE = 1
    # It may have been carried out, or may still be.
    UNKNOWN = 2
    # It was turned away for want of a valid token.
    TOKEN = 3


# Words of grpc core when there is no connection to send anything on.
_NOT_SENT = (
    "failed to connect to all addresses",
    "connections to all backends failing",
    "DNS resolution failed",
)
# Words of etcd before it proposes anything to its members.
_NOT_PROPOSED = ("etcdserver: no leader", "etcdserver: not capable", "etcdserver: rpc not supported for learner")
_WITHOUT_TOKEN = ("etcdserver: revision of auth store is old", "etcdserver: user name is empty")
# What etcd never considered, or cannot tell the end of.
_INCONCLUSIVE = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNKNOWN,
    }
)


class AnswerError(Exception):
    """etcd's own refusal of a request."""

    def __init__(self, code: grpc.StatusCode, details: str, *, unsure: bool) -> None:
        """`unsure` tells that an earlier attempt may have been carried out, and be why this one was refused."""
        super().__init__(f"{code.name}: {details}")
        self.code = code
        self.details = details
        self.unsure = unsure

    @property
    def lease_missing(self) -> bool:
        return self.code is grpc.StatusCode.NOT_FOUND

    @property
    def lease_exists(self) -> bool:
        return self.code is grpc.StatusCode.FAILED_PRECONDITION and "lease already exists" in self.details

    @property
    def compacted(self) -> bool:
        return self.code is grpc.StatusCode.OUT_OF_RANGE and "has been compacted" in self.details

    def as_kv_error(self) -> KvError:
        """Return what it means to the store's users, where no driver code knows better."""
        text = self.details.removeprefix("etcdserver: ")
        if self.code is grpc.StatusCode.RESOURCE_EXHAUSTED and "space exceeded" in text:
            return StorageError("etcd has used up its space: compact and defragment it, or raise its quota")
        if self.code is grpc.StatusCode.PERMISSION_DENIED:
            return StorageError("etcd denies its user this: grant it read and write on the namespace of --store")
        if self.code in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED):
            return RequestError(f"etcd refuses the request: {text}")
        return StorageError(f"etcd answered {self.code.name}: {text}")


def judge(code: grpc.StatusCode, details: str) -> Verdict:
    """Return what the status of a failed call tells."""
    if code is grpc.StatusCode.UNAUTHENTICATED or details.startswith(_WITHOUT_TOKEN):
        return Verdict.TOKEN
    if details.startswith(_NOT_PROPOSED) or "too many requests" in details:
        return Verdict.NOT_DONE
    if code is grpc.StatusCode.UNAVAILABLE and details.startswith(_NOT_SENT):
        return Verdict.NOT_DONE
    return Verdict.UNKNOWN if code in _INCONCLUSIVE else Verdict.ANSWERED
