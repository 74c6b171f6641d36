"""The correlation id: kept when it is well-formed, else made; sent on, and sent back."""

from __future__ import annotations

from mesh import correlation
from proxy.call.call import Call
from proxy.call.interceptor import Interceptor


class Correlation(Interceptor):
    """Gives every call its correlation id.

    Taken from `x-correlation-id`; when that is missing or malformed, the trace id of a W3C `traceparent` serves, so
    that both names lead to the same call; else it is random.
    """

    name = "correlation"

    def on_request(self, call: Call) -> None:
        given = call.header(correlation.HEADER)
        if given is not None and correlation.well_formed(given):
            value = given
        else:
            traceparent = call.header(correlation.TRACEPARENT)
            value = (traceparent and correlation.trace_id(traceparent)) or correlation.new_id()
        call.correlation_id = value
        call.send_upstream(correlation.HEADER, value)
        call.send_reply(correlation.HEADER, value)
