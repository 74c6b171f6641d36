"""The spans of this process' calls: noted as calls end, and handed on in batches."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any, Protocol

from mesh.resilience.outcome import code_name
from mesh.telemetry.sampling import Sampler, TracingOptions, has_failed
from mesh.telemetry.spans import ERROR, SAMPLED, SERVER, UNSET, SpanRecord

# Spans that wait to be handed on; more of them are dropped, and counted.
MAX_WAITING = 20_000

_NOTHING: Mapping[str, Any] = {}
# What is the server's fault, and so an error of its span (OpenTelemetry's conventions); a client's span has an error
# whatever went wrong.
_SERVERS = frozenset({2, 4, 12, 13, 14, 15})


class About(Protocol):
    """What a span has of its call; `mesh.context.CallContext` is one."""

    @property
    def correlation_id(self) -> str: ...
    @property
    def trace_id(self) -> str: ...
    @property
    def sampled(self) -> bool: ...


class SpanLog:
    """Where spans go until somebody takes them."""

    def __init__(self, options: TracingOptions, service: str = "", instance: str = "", version: str = "") -> None:
        """Note spans as of one instance."""
        sampler = Sampler(options)
        self.begins = sampler.begins
        self._sample = options.sample
        self._slow = options.slow_seconds
        self._who = (service, instance, version)
        self._waiting: deque[SpanRecord | tuple[Any, ...]] = deque()
        self.dropped = 0

    def keeps(self, *, sampled: bool, code: int, seconds: float) -> bool:
        """Tell whether the span of a call that ended so is kept."""
        return sampled or has_failed(code) or seconds >= self._slow

    def call(
        self,
        kind: int,
        about: About,
        span_id: str,
        parent: str,
        method: str,
        began_ns: int,
        seconds: float,
        code: int,
        *,
        peer: str = "",
        message: Any = "",
        attributes: Mapping[str, Any] = _NOTHING,
    ) -> None:
        """Note a call. `method` is "shop.v1.Orders/Get", `peer` the service that was called."""
        if len(self._waiting) >= MAX_WAITING:
            self.dropped += 1
            return
        # Nothing that the garbage collector would have to look into for as long as it waits.
        ids = (about.trace_id, about.correlation_id, about.sampled)
        self._waiting.append((kind, *ids, span_id, parent, method, began_ns, seconds, code, peer, message, attributes))

    def _record(self, noted: tuple[Any, ...]) -> SpanRecord:
        kind, trace_id, cid, sampled, span_id, parent, method, began_ns, seconds, code, peer, message, attributes = (
            noted
        )
        service, instance, version = self._who
        wrong = code in _SERVERS if kind == SERVER else has_failed(code)
        if isinstance(message, bytes):
            message = message.decode("utf-8", "replace")
        return SpanRecord(
            trace_id=trace_id,
            span_id=span_id,
            name=method,
            start_ns=began_ns,
            end_ns=began_ns + int(seconds * 1e9),
            kind=kind,
            parent_span_id=parent,
            status=ERROR if wrong else UNSET,
            status_message=message or "",
            service=service,
            instance=instance,
            version=version,
            scope="mesh",
            correlation_id=cid,
            rpc_method=method,
            rpc_status_code=code_name(code),
            peer_service=peer,
            flags=SAMPLED if sampled else 0,
            attributes=attributes,
        )

    def take(self, most: int) -> list[SpanRecord]:
        """Return spans that waited, the oldest first, no more than `most`."""
        waiting = self._waiting
        noted = [waiting.popleft() for _ in range(min(most, len(waiting)))]
        return [one if isinstance(one, SpanRecord) else self._record(one) for one in noted]

    def note(self, span: SpanRecord) -> None:
        """Note a span of another kind, such as that of a message; whose it is is filled in."""
        seconds = (span.end_ns - span.start_ns) / 1e9
        if not (span.flags & SAMPLED or span.status == ERROR or seconds >= self._slow):
            return
        if len(self._waiting) >= MAX_WAITING:
            self.dropped += 1
            return
        if not span.service:
            span.service, span.instance, span.version = self._who
        self._waiting.append(span)
