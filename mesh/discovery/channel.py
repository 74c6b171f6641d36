"""Channels to the control services, and what their failures mean."""

from __future__ import annotations

import grpc

from mesh.discovery.errors import RefusedError
from mesh.errors import MeshError, UnreachableError

_OPTIONS: tuple[tuple[str, int], ...] = (
    # Come back soon after the control process does.
    ("grpc.initial_reconnect_backoff_ms", 100),
    # Despite its name: how long one attempt to connect may take. A busy machine needs far more than 100 ms.
    ("grpc.min_reconnect_backoff_ms", 5_000),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    # An own connection: neither its backoff nor its trouble is shared with other channels of the process.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
    # Notice a peer that died without a word.
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    # A snapshot of a large fleet is one message.
    ("grpc.max_receive_message_length", -1),
)

_REFUSED = frozenset(
    {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.ALREADY_EXISTS,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.OUT_OF_RANGE,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.UNAUTHENTICATED,
    }
)


def control_channel(target: str) -> grpc.aio.Channel:
    """Return a channel to the control services at `target`, "HOST:PORT"."""
    return grpc.aio.insecure_channel(target, options=_OPTIONS)


def mesh_error(error: grpc.aio.AioRpcError, target: str) -> MeshError:
    """Return what the failure of a call to the control services at `target` means: refused, or not reached."""
    code, details = error.code(), error.details() or ""
    if code in _REFUSED:
        return RefusedError(details or f"the control service at {target} answered {code.name}")
    if code is grpc.StatusCode.UNAVAILABLE:
        return UnreachableError(
            f"no control service answers at {target} (start one with `mesh up`, or set --control or MESH_CONTROL)"
        )
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return UnreachableError(f"the control service at {target} does not answer in time")
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return UnreachableError(
            f"{target} answers, but is no control service (does --control or MESH_CONTROL name another server?)"
        )
    return UnreachableError(f"the control service at {target} failed with {code.name}{details and ': ' + details}")
