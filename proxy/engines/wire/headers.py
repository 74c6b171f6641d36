"""Header lists on their way from one hop to the next. Pure.

The tuples that the library made are handed on as they are: making new ones costs more than all that is done here.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

from mesh.resilience.deadline import format_timeout
from proxy.call.call import Call
from proxy.call.reason import Reason, Reject
from proxy.engines.wire.h2 import Header

_METHOD = (b":method", b"POST")
_SCHEME = (b":scheme", b"http")
_TE = (b"te", b"trailers")

# What concerns one hop alone. `te` and `grpc-timeout` are written anew for the next one; the library refuses some of
# the others, which HTTP/2 does not know.
_HOP = frozenset(
    {
        b"connection",
        b"proxy-connection",
        b"keep-alive",
        b"transfer-encoding",
        b"upgrade",
        b"http2-settings",
        b"host",
        b"te",
        b"grpc-timeout",
    }
)
_REPLY_HOP = frozenset(
    {b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade", b"alt-svc"}
)

_OVERHEAD = 32

# The names to leave out, by the names that interceptors replace. Those come from code, not from clients: there are few.
_request_left_out: dict[tuple[bytes, ...], frozenset[bytes]] = {}
_reply_left_out: dict[tuple[bytes, ...], frozenset[bytes]] = {}
_MAX_LEFT_OUT = 256


def request_head(call: Call, authority: Header, now: float) -> list[Header]:
    """Return the headers of the request to the upstream."""
    replaced = call.upstream_metadata
    names = tuple(replaced)
    drop = _request_left_out.get(names) or _leaving_out(_request_left_out, names, _HOP)
    head = [_METHOD, _SCHEME, (b":path", call.method), authority, _TE]
    if call.deadline is not None:
        head.append((b"grpc-timeout", format_timeout(call.deadline - now)))
    head += [pair for pair in call.metadata if pair[0] not in drop]
    head += replaced.items()
    return head


def check_printable(call: Call, joined: bytes) -> None:
    """Refuse values that gRPC does not allow, though HTTP/2 does; `joined` is all metadata. Raises Reject."""
    # The library has refused control characters already.
    if joined.isascii() and b"\t" not in joined:
        return
    metadata = call.metadata
    bad = next((name for name, value in metadata if not value.isascii() or b"\t" in value), b"")
    raise Reject(
        Reason.MALFORMED_REQUEST,
        f"metadata '{bad.decode('ascii', 'replace')}' must be printable ASCII; "
        "binary values go, base64-encoded, under a name that ends in -bin",
    )


def reply_head(call: Call, headers: tuple[Header, ...]) -> list[Header]:
    """Return the headers of the reply to the client; `headers` are the upstream's, `:status` first."""
    own = call.reply_metadata
    names = tuple([name for name, _ in own])
    drop = _reply_left_out.get(names) or _leaving_out(_reply_left_out, names, _REPLY_HOP)
    head = [pair for pair in headers if pair[0] not in drop]
    head += own
    return head


def list_bytes(headers: Sequence[Header]) -> int:
    """Return the size of a header list as HTTP/2 counts it (RFC 9113, 6.5.2)."""
    return len(b"".join(chain.from_iterable(headers))) + _OVERHEAD * len(headers)


def _leaving_out(
    known: dict[tuple[bytes, ...], frozenset[bytes]], names: tuple[bytes, ...], hop: frozenset[bytes]
) -> frozenset[bytes]:
    drop = hop.union(names)
    if len(known) >= _MAX_LEFT_OUT:
        known.clear()
    known[names] = drop
    return drop
