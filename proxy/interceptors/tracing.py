"""The trace context: taken from the call, or begun; the upstream gets it with a span of the edge's between."""

from __future__ import annotations

from mesh import correlation, tracing
from mesh.clock import Clock
from mesh.resilience.outcome import OK
from mesh.telemetry.sampling import TracingOptions
from proxy.call.call import Call
from proxy.call.interceptor import Interceptor
from proxy.upstream.endpoint import Endpoint

_VERSION, _SAMPLED, _NOT_SAMPLED = b"00-", b"-01", b"-00"


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
        given, own_id = call.header(correlation.TRACEPARENT), call.correlation_id
        # A correlation id that did not come as one is the trace id, where that is well-formed: no need to look again.
        made_here = call.header(correlation.HEADER) != own_id
        if given is not None and ((made_here and given[3:35] == own_id) or correlation.trace_id(given) is not None):
            call.traceparent_in = given
            # Today's version, whichever came.
            begin = given[:36] if given.startswith(_VERSION) else _VERSION + given[3:36]
            sampled = tracing.is_sampled(given)
        else:
            call.traceparent_in = b""
            trace_id = own_id if made_here else correlation.new_id()
            begin = _VERSION + trace_id + b"-"
            sampled = tracing.in_share(trace_id, self._bound)
        call.traceparent = value = begin + tracing.new_span_id() + (_SAMPLED if sampled else _NOT_SAMPLED)
        call.failed = ()
        call.send_upstream(correlation.TRACEPARENT, value)

    def on_attempt_end(self, call: Call, endpoint: Endpoint) -> None:
        if call.status != OK:
            call.failed = (*call.failed, (self._now(), endpoint, call.status, call.message, call.reason))
