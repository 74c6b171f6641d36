"""Channels to the control services, and what their failures mean."""

from __future__ import annotations

import functools
from collections.abc import Mapping

import grpc

from mesh.discovery.errors import RefusedError
from mesh.errors import MeshError, UnreachableError
from mesh.options import CA_VARIABLE, client_tls
from mesh.tls.credentials import channel_credentials
from mesh.tls.identity import Identity
from mesh.tls.options import UpstreamTls

_OPTIONS: tuple[tuple[str, int], ...] = (
    # Come back soon after the control process does.
    ("grpc.initial_reconnect_backoff_ms", 100),
    # Despite its name: how long one attempt to connect may take. A busy machine needs far more than 100 ms.
    ("grpc.min_reconnect_backoff_ms", 5_000),
    ("grpc.max_reconnect_backoff_ms", 1_000),
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
    """Return a channel to the control services at `target`, "HOST:PORT", by TLS where the environment says so.

    Raises:
        MeshError: the files that the environment names are of no use.

    """
    credentials = mesh_credentials()
    if credentials is None:
        return grpc.aio.insecure_channel(target, options=_OPTIONS)
    return grpc.aio.secure_channel(target, credentials, options=_OPTIONS)


def instance_channel(address: str, metadata: Mapping[str, str]) -> grpc.aio.Channel:
    """Return a channel to an instance of the mesh itself, by TLS when it is registered with `tls=on`."""
    if metadata.get("tls", "").lower() == "on":
        return control_channel(address)
    return grpc.aio.insecure_channel(address, options=_OPTIONS)


def mesh_credentials() -> grpc.ChannelCredentials | None:
    """Return what calls to the mesh itself are secured with: MESH_CA, MESH_CERT and MESH_KEY as the files are now.

    None is plaintext. Files that change are in force for the next channel but one: a certificate and its key are two
    files. Raises MeshError when they are of no use from the start.
    """
    files = client_tls()
    if not any(files):
        return None
    identity = _identity(*files)
    identity.check()
    return channel_credentials(identity.material)


@functools.lru_cache(maxsize=1)
def _identity(ca: str, cert: str, key: str) -> Identity:
    return Identity("calls to the mesh", UpstreamTls(ca, cert, key))


def mesh_error(error: grpc.aio.AioRpcError, target: str) -> MeshError:
    """Return what the failure of a call to the control services at `target` means: refused, or not reached."""
    code, details = error.code(), error.details() or ""
    if code in _REFUSED:
        return RefusedError(details or f"the control service at {target} answered {code.name}")
    if code is grpc.StatusCode.UNAVAILABLE:
        trailers = dict(error.trailing_metadata() or ())
        if details and "grpc-status-details-bin" in trailers:
            return UnreachableError(details)  # it answers, and says why not now
        if "mesh-reason" in trailers:  # an edge's own answer
            return UnreachableError(f"no control service answers behind the edge at {target}: {details}")
        return UnreachableError(
            f"no control service answers at {target}{_by_tls()} (start one with `mesh up`, or set --control or "
            "MESH_CONTROL)"
        )
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return UnreachableError(f"the control service at {target} does not answer in time")
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return UnreachableError(
            f"{target} answers, but is no control service (does --control or MESH_CONTROL name another server?)"
        )
    return UnreachableError(f"the control service at {target} failed with {code.name}{details and ': ' + details}")


def _by_tls() -> str:
    return f" over TLS ({CA_VARIABLE} and its kin are set)" if any(client_tls()) else ""
