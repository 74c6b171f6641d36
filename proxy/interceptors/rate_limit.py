"""The rate limit of a route: calls beyond it are refused, and told when to come again."""

from __future__ import annotations

import functools
import ipaddress
import math
from collections.abc import Callable

from mesh.clock import Clock
from mesh.resilience.policy import KEY_METADATA, KEY_PEER, RateLimitOptions
from mesh.resilience.rate_limit import RateLimiter
from proxy.call.call import Call
from proxy.call.interceptor import Interceptor
from proxy.call.reason import Reason, Reject
from proxy.upstream.retry import PUSHBACK

# Of an IPv6 address: what one customer of a provider has is at least this wide.
_IPV6_BITS = 64


class RateLimit(Interceptor):
    """Lets so many calls a second through."""

    name = "rate_limit"

    def __init__(self, clock: Clock, options: RateLimitOptions, limiter: RateLimiter, service: str) -> None:
        self._now = clock.now
        self._take = limiter.take
        self._key = _key(options)
        whose = {KEY_METADATA: f" for one {options.metadata_key}", KEY_PEER: " for one client"}.get(options.key, "")
        self._message = f"{service} takes {options.per_second:g} calls a second{whose}: retry after %.3f s"

    def on_request(self, call: Call) -> None:
        wait = self._take(self._key(call), self._now())
        if wait:
            pushback = b"%d" % math.ceil(wait * 1000)
            raise Reject(Reason.RATE_LIMITED, self._message % wait, ((PUSHBACK, pushback),))


def _key(options: RateLimitOptions) -> Callable[[Call], bytes]:
    """Return what tells the bucket of a call."""
    if options.key == KEY_METADATA:
        name = options.metadata_key.encode()
        return lambda call: call.header(name) or b""
    if options.key == KEY_PEER:
        return lambda call: b"name " + call.peer_identity.encode() if call.peer_identity else client_address(call.peer)
    return lambda _call: b""


@functools.lru_cache(4096)
def client_address(peer: str) -> bytes:
    """Return where a client is, without its port: an IPv4 address, or the network of an IPv6 address."""
    kind, _, rest = peer.partition(":")
    if kind != "ipv6":
        return peer.rpartition(":")[0].encode()
    host = rest.rpartition(":")[0].replace("%5B", "").replace("%5D", "").strip("[]").partition("%")[0]
    try:
        address = ipaddress.IPv6Address(host)
    except ValueError:
        return host.encode()
    mapped = address.ipv4_mapped
    return f"ipv4:{mapped}".encode() if mapped else (int(address) >> (128 - _IPV6_BITS)).to_bytes(8)
