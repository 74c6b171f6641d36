"""One call on its way through the edge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from mesh.resilience import outcome
from proxy.call.reason import Reason, Reject

if TYPE_CHECKING:
    from proxy.call.pipeline import Pipeline
    from proxy.routing.table import MethodRoute
    from proxy.upstream.endpoint import Endpoint

Metadata = Sequence[tuple[bytes, bytes]]

_NOTHING: Mapping[bytes, bytes] = {}


class Call:
    """What is known of one call. Times are the clock's monotonic seconds; names and values of metadata are bytes.

    An interceptor reads `header()`, writes `send_upstream()` and `send_reply()`, and looks at the rest. The received
    metadata itself is never changed, so that an engine can hand it on as it came.
    """

    __slots__ = (
        "attempt_at",
        "attempts",
        "by_name",
        "bytes_in",
        "bytes_out",
        "correlation_id",
        "deadline",
        "ended_at",
        "endpoint",
        "failed",
        "listener",
        "message",
        "messages_in",
        "messages_out",
        "metadata",
        "method",
        "peer",
        "peer_identity",
        "permit",
        "pipeline",
        "reason",
        "reply_metadata",
        "request_ended_at",
        "response_at",
        "route",
        "started_at",
        "status",
        "traceparent",
        "traceparent_in",
        "tried",
        "upstream_metadata",
    )

    # When the attempt under way began; set on routes whose policy asks how long attempts take, and nowhere else.
    attempt_at: float
    # Where calls are traced, and nowhere else: what the upstream gets; what came, b"" where it was none; and of each
    # attempt that failed the time, where it was, its status, message and reason.
    traceparent: bytes
    traceparent_in: bytes
    failed: tuple[tuple[float, Endpoint, int, str, Reason | None], ...]

    def __init__(self, method: bytes, metadata: Metadata, peer: str, listener: str, now: float) -> None:
        # The full path, "/shop.v1.Orders/Get".
        self.method = method
        self.metadata = metadata
        self.peer = peer
        # Whose certificate the client showed: its URI, host name or subject; "" without mutual TLS.
        self.peer_identity = ""
        self.listener = listener
        self.started_at = now
        # When the caller stops waiting; None when it never does.
        self.deadline: float | None = None
        self.correlation_id = b""
        # None for a method that this listener does not know.
        self.route: MethodRoute | None = None
        self.pipeline: Pipeline | None = None
        # The attempt under way, or the last one; its breaker permit; endpoints that were tried before it.
        self.endpoint: Endpoint | None = None
        self.permit = 0
        self.tried: tuple[Endpoint, ...] = ()
        self.attempts = 0
        # Metadata that replaces what the client sent, and metadata added to the first part of the reply.
        self.upstream_metadata: Mapping[bytes, bytes] = _NOTHING
        self.reply_metadata: Metadata = ()
        # When the client had sent all, and when the upstream began to answer; 0 while it has not.
        self.request_ended_at = 0.0
        self.response_at = 0.0
        # Known in on_end.
        self.status = -1
        self.message = ""
        self.reason: Reason | None = None
        self.ended_at = 0.0
        # Sums over messages, without framing.
        self.bytes_in = 0
        self.bytes_out = 0
        self.messages_in = 0
        self.messages_out = 0
        # For `header`. An engine that has made it may set it; it may hold more than the metadata.
        self.by_name: dict[bytes, bytes] | None = None

    def header(self, name: bytes) -> bytes | None:
        """Return the value of a received header, the last one where there are several, or None."""
        headers = self.by_name
        if headers is None:
            headers = self.by_name = dict(self.metadata)
        return headers.get(name)

    def headers(self) -> Mapping[bytes, bytes]:
        """Return the received headers by name, the last one where there are several of a name."""
        headers = self.by_name
        if headers is None:
            headers = self.by_name = dict(self.metadata)
        return headers

    def send_upstream(self, name: bytes, value: bytes) -> None:
        """Send `name: value` to the upstream instead of what the client sent under that name."""
        if self.upstream_metadata:
            self.upstream_metadata = {**self.upstream_metadata, name: value}
        else:
            self.upstream_metadata = {name: value}

    def send_reply(self, name: bytes, value: bytes) -> None:
        """Add `name: value` to the initial metadata of the reply, also of a refusal."""
        self.reply_metadata = (*self.reply_metadata, (name, value))

    def request_metadata(self) -> Metadata:
        """Return the metadata to send to the upstream."""
        replaced = self.upstream_metadata
        if not replaced:
            return self.metadata
        return [*(pair for pair in self.metadata if pair[0] not in replaced), *replaced.items()]

    def time_left(self, now: float) -> float | None:
        """Return the seconds until the caller stops waiting, or None when it never does."""
        return None if self.deadline is None else self.deadline - now

    def reject(self, rejection: Reject) -> None:
        """Note that the call is answered by the edge itself."""
        self.finish(rejection.reason.code, rejection.message, rejection.reason)

    def finish(self, status: int, message: str = "", reason: Reason | None = None) -> None:
        """Note how the call ends."""
        self.status = status
        self.message = message
        self.reason = reason

    @property
    def cancelled(self) -> bool:
        """Whether the caller gave up before there was an answer."""
        return self.status == outcome.CANCELLED and self.reason is None
