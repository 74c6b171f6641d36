"""Traces in a few words, as Jaeger's list of what was found has them. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from services.tracesink.jaeger import messages
from services.tracesink.summaries import Light
from services.tracesink.trees import ERROR, parents, roots


def summary(spans: Sequence[Light]) -> Any:
    """Return a `TraceSummary` of the spans of a trace, one at least; only their own status makes an error."""
    above = parents(spans)
    root = spans[roots(spans, above)[0]]
    known = {span.span_id for span in spans}
    counts = Counter(span.service for span in spans)
    errors = Counter(span.service for span in spans if span.status == ERROR)
    return messages.TraceSummary(
        trace_id=root.trace_id,
        root_service_name=root.service,
        root_operation_name=root.name,
        min_start_time_unix_nano=min(span.start_ns for span in spans),
        max_end_time_unix_nano=max(span.end_ns for span in spans),
        span_count=len(spans),
        error_span_count=errors.total(),
        orphan_span_count=sum(bool(span.parent_span_id) and span.parent_span_id not in known for span in spans),
        services=[
            messages.ServiceSummary(name=name, span_count=counts[name], error_span_count=errors[name])
            for name in sorted(counts)
        ],
    )
