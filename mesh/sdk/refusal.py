"""Calls that end without an answer of an instance, and why: as the edge says it."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

import grpc

from mesh.resilience import outcome

if TYPE_CHECKING:
    from mesh.sdk.plan import Plan
    from mesh.sdk.upstream import Upstream

# The name of the trailer, and the words that it has: those of `proxy.call.reason`.
TRAILER = "mesh-reason"

_CODES = {int(code.value[0]): code for code in grpc.StatusCode}


class Refused(Exception):  # noqa: N818 - it is an answer, not an error
    """The call ends here; `message` is one sentence for a person."""

    def __init__(self, reason: str, code: int, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.code = code
        self.message = message

    def error(self) -> grpc.aio.AioRpcError:
        """Return it as callers know it."""
        return refusal(self.reason, self.code, self.message)


def refusal(reason: str, code: int, message: str) -> grpc.aio.AioRpcError:
    """Return the error of a call that no instance has answered."""
    return grpc.aio.AioRpcError(
        _CODES.get(code, grpc.StatusCode.UNKNOWN),
        grpc.aio.Metadata(),
        grpc.aio.Metadata((TRAILER, reason)),
        details=message,
    )


def nowhere(upstream: Upstream, plan: Plan) -> Refused:
    """Return why no endpoint takes a call."""
    name = upstream.name
    if plan.targets.willing:
        why = f"every endpoint of {name} fails; its circuit breakers are open: retry later"
        return Refused("breaker_open", outcome.UNAVAILABLE, why)
    if upstream.endpoints:
        return Refused("no_endpoint", outcome.UNAVAILABLE, f"no instance of {name} is serving now")
    why = f"no instance of {name} is registered now"
    others = upstream.others()
    if name not in others:
        close = difflib.get_close_matches(name, others, n=1)
        why += f"; did you mean {close[0]}?" if close else ""
    return Refused("no_endpoint", outcome.UNAVAILABLE, why)
