"""The members of an etcd cluster: channels, which one is in use, moving on to the next, tokens, and unary calls."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import grpc
from google.protobuf.message import Message

from mesh.api.etcd import v3
from mesh.discovery.backoff import Backoff
from services.storage.kv.base import OutcomeUnknownError, StorageError
from services.storage.kv.etcd.failures import AnswerError, Verdict, judge
from services.storage.kv.etcd.options import EtcdOptions, Tls

_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
    # Notice a member that died without a word. etcd takes no pings under 5 s, nor any without a call in flight.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
)
# A member that has lost its leader shall say so, instead of sitting on what it is asked.
_LEADER = ("hasleader", "true")

Q = TypeVar("Q", bound=Message)
R = TypeVar("R", bound=Message)


@dataclass(frozen=True)
class Method(Generic[Q, R]):
    """A method of etcd, by its path."""

    path: str
    reply: Callable[[bytes], R]
    # Whether it may change anything.
    writes: bool = True


RANGE: Method[v3.RangeRequest, v3.RangeResponse] = Method(
    "/etcdserverpb.KV/Range", v3.RangeResponse.FromString, writes=False
)
TXN: Method[v3.TxnRequest, v3.TxnResponse] = Method("/etcdserverpb.KV/Txn", v3.TxnResponse.FromString)
COMPACT: Method[v3.CompactionRequest, v3.CompactionResponse] = Method(
    "/etcdserverpb.KV/Compact", v3.CompactionResponse.FromString
)
GRANT: Method[v3.LeaseGrantRequest, v3.LeaseGrantResponse] = Method(
    "/etcdserverpb.Lease/LeaseGrant", v3.LeaseGrantResponse.FromString
)
REVOKE: Method[v3.LeaseRevokeRequest, v3.LeaseRevokeResponse] = Method(
    "/etcdserverpb.Lease/LeaseRevoke", v3.LeaseRevokeResponse.FromString
)
TIME_TO_LIVE: Method[v3.LeaseTimeToLiveRequest, v3.LeaseTimeToLiveResponse] = Method(
    "/etcdserverpb.Lease/LeaseTimeToLive", v3.LeaseTimeToLiveResponse.FromString, writes=False
)
WATCH: Method[v3.WatchRequest, v3.WatchResponse] = Method("/etcdserverpb.Watch/Watch", v3.WatchResponse.FromString)
KEEPALIVE: Method[v3.LeaseKeepAliveRequest, v3.LeaseKeepAliveResponse] = Method(
    "/etcdserverpb.Lease/LeaseKeepAlive", v3.LeaseKeepAliveResponse.FromString
)
AUTHENTICATE: Method[v3.AuthenticateRequest, v3.AuthenticateResponse] = Method(
    "/etcdserverpb.Auth/Authenticate", v3.AuthenticateResponse.FromString, writes=False
)


class Member:
    """One member, with a channel of its own."""

    def __init__(self, address: str, credentials: grpc.ChannelCredentials | None) -> None:
        self.address = address
        self.channel = (
            grpc.aio.insecure_channel(address, options=_OPTIONS)
            if credentials is None
            else grpc.aio.secure_channel(address, credentials, options=_OPTIONS)
        )
        self._made: dict[str, Any] = {}

    def unary(self, method: Method[Q, R]) -> Any:
        return self._make(self.channel.unary_unary, method)

    def stream(self, method: Method[Q, R]) -> Any:
        return self._make(self.channel.stream_stream, method)

    def _make(self, kind: Any, method: Method[Q, R]) -> Any:
        made = self._made.get(method.path)
        if made is None:
            made = kind(method.path, request_serializer=_serialize, response_deserializer=method.reply)
            self._made[method.path] = made
        return made


class Members:
    """All members; requests go to one of them until it fails."""

    def __init__(self, options: EtcdOptions) -> None:
        self._options = options
        credentials = _credentials(options.tls) if options.tls else None
        self._members = [Member(address, credentials) for address in options.members]
        self._index = 0
        self._token = ""
        self._authenticating = asyncio.Lock()
        self._streams: set[Any] = set()
        self._closing = asyncio.Event()

    @property
    def closed(self) -> bool:
        return self._closing.is_set()

    def ended_by_close(self) -> bool:
        """Tell, of a cancellation in this task, that it was a call's, cancelled with the store, and not the task's."""
        task = asyncio.current_task()
        return self.closed and not (task is not None and task.cancelling())

    @property
    def current(self) -> Member:
        if self.closed:
            raise StorageError("the store has been closed")
        return self._members[self._index]

    def failed(self, member: Member) -> None:
        """Move on from `member`, unless that has been done already."""
        if member is self._members[self._index]:
            self._index = (self._index + 1) % len(self._members)

    async def metadata(self) -> tuple[tuple[str, str], ...]:
        """Return what goes with every call."""
        if not self._options.user:
            return (_LEADER,)
        if not self._token:
            await self.renew_token("")
        return (_LEADER, ("token", self._token))

    @contextlib.contextmanager
    def stream(
        self, member: Member, method: Method[Q, R], metadata: tuple[tuple[str, str], ...]
    ) -> Iterator[grpc.aio.StreamStreamCall[Q, R]]:
        """Give a stream, which ends with the block or with the store, whichever comes first."""
        call = member.stream(method)(metadata=metadata)
        self._streams.add(call)
        try:
            yield call
        finally:
            self._streams.discard(call)
            call.cancel()

    async def begin(self, call: grpc.aio.StreamStreamCall[Q, R], request: Q) -> None:
        """Send the first request of a stream."""
        # grpc.aio forgets whoever waits for a call to begin when that call is cancelled.
        writing, closing = asyncio.ensure_future(call.write(request)), asyncio.ensure_future(self._closing.wait())
        try:
            await asyncio.wait((writing, closing), return_when=asyncio.FIRST_COMPLETED)
        finally:
            closing.cancel()
            if not writing.done():
                writing.cancel()
        if self.closed:
            raise asyncio.CancelledError
        await writing

    async def renew_token(self, old: str) -> None:
        """Get a token in the place of `old`, unless another call has done so meanwhile.

        Raises:
            StorageError: etcd does not know the user, or does not answer.

        """
        async with self._authenticating:
            if self._token != old:
                return
            request = v3.AuthenticateRequest(name=self._options.user, password=self._options.password)
            try:
                self._token = (await self._attempts(AUTHENTICATE, request, repeatable=True, named=False)).token
            except AnswerError as error:
                if "authentication is not enabled" not in error.details:
                    raise StorageError(f"etcd does not take user '{self._options.user}': {error.details}") from error
                self._token = "none"  # noqa: S105 - any will do: nobody looks at it
                return

    async def call(self, method: Method[Q, R], request: Q, *, repeatable: bool) -> R:
        """Make one request, at another member if need be; twice only if it is `repeatable`.

        Raises:
            AnswerError: etcd refuses it.
            OutcomeUnknownError: it may have been carried out.
            StorageError: it was not, because no member could be reached in time.

        """
        return await self._attempts(method, request, repeatable=repeatable, named=True)

    async def _attempts(self, method: Method[Q, R], request: Q, *, repeatable: bool, named: bool) -> R:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._options.timeout
        backoff = Backoff()
        unsure = False
        for attempt in range(1, 1_000_000):
            member = self.current
            metadata = await self.metadata() if named else (_LEADER,)
            timeout = max(0.001, min(deadline - loop.time(), self._options.attempt_timeout))
            try:
                return await member.unary(method)(request, timeout=timeout, metadata=metadata)  # type: ignore[no-any-return]
            except grpc.aio.AioRpcError as error:
                code, details = error.code(), error.details() or ""
            except (asyncio.CancelledError, grpc.aio.UsageError):
                if not self.ended_by_close():
                    raise
                code, details = grpc.StatusCode.CANCELLED, "the store has been closed"
            verdict = judge(code, details)
            if verdict is Verdict.ANSWERED or (verdict is Verdict.TOKEN and not named):
                raise AnswerError(code, details, unsure=unsure)
            unsure = unsure or (verdict is Verdict.UNKNOWN and method.writes)
            if verdict is Verdict.TOKEN:
                if not self._options.user:
                    raise StorageError("etcd wants to know who asks: name a user in the URL of --store")
                await self.renew_token(dict(metadata).get("token", ""))
            else:
                self.failed(member)
            what = f"etcd at {member.address} does not serve ({details or code.name})"
            wait = 0.0 if attempt % len(self._members) else backoff.next()
            if self.closed or loop.time() + wait > deadline or (unsure and not repeatable):
                raise OutcomeUnknownError(f"{what}: the outcome is unknown") if unsure else StorageError(what)
            await asyncio.sleep(wait)
        raise AssertionError

    async def close(self) -> None:
        self._closing.set()
        # Closing a channel leaves those alone that have only just begun.
        for call in self._streams:
            call.cancel()
        for member in self._members:
            await member.channel.close()


def _serialize(message: Message) -> bytes:
    return message.SerializeToString()


def _credentials(tls: Tls) -> grpc.ChannelCredentials:
    ca, cert, key = (path.read_bytes() if path else None for path in (tls.ca, tls.cert, tls.key))
    return grpc.ssl_channel_credentials(root_certificates=ca, private_key=key, certificate_chain=cert)
