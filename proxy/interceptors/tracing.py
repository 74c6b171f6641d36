"""The trace context: taken from the call, or begun; the upstream gets it with a span of the edge's between."""

from __future__ import annotations

from mesh import correlation, tracing
from mesh.clock import Clock
from mesh.resilience.outcome import OK
from mesh.telemetry.sampling import TracingOptions
from proxy.call.call import Call
from proxy.call.interceptor import Interceptor
from proxy.upstream.endpoint import Endpoint

_SAMPLED, _NOT_SAMPLED = b"-01", b"-00"


class Tracing(Interceptor):
    """Gives every call a span of the edge's.

    It goes in `traceparent` alone, made once a call; who makes records of spans (proxy/admin/spans.py) reads it there.
    A well-formed one that came says the trace, and whether it is sampled. Else a trace begins here, under the
    correlation id where that was made here too, so that both names lead to the same call. `tracestate` is passed on.
    """

    name = "tracing"

    def __init__(self, clock: Clock, options: TracingOptions) -> None:
        self._now = clock.now
        self._bound = tracing.threshold(options.sample)

    def on_request(self, call: Call) -> None:
        given = call.header(correlation.TRACEPARENT)
        trace_id = correlation.trace_id(given) if given is not None else None
        if given is not None and trace_id is not None:
            call.traceparent_in = given
            sampled = tracing.is_sampled(given)
        else:
            call.traceparent_in = b""
            trace_id = call.correlation_id
            if trace_id == call.header(correlation.HEADER):
                trace_id = correlation.new_id()
            sampled = tracing.in_share(trace_id, self._bound)
        end = _SAMPLED if sampled else _NOT_SAMPLED
        call.traceparent = value = b"00-" + trace_id + b"-" + tracing.new_span_id() + end
        call.failed = ()
        call.send_upstream(correlation.TRACEPARENT, value)

    def on_attempt_end(self, call: Call, endpoint: Endpoint) -> None:
        if call.status != OK:
            call.failed = (*call.failed, (self._now(), endpoint, call.status, call.message, call.reason))
