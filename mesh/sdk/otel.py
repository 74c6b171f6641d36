"""Where OpenTelemetry's API is installed, its spans and ours are of one trace, either way; else there is nothing here.

While a call is served its span is OpenTelemetry's current one, so that an application's own spans are its children;
and a call that is made under an application's own span is that span's child.
"""

from __future__ import annotations

from mesh.context import CallContext, current

try:
    from opentelemetry import context as otel_context
    from opentelemetry import trace as otel
except ImportError:  # it is optional

    def here() -> CallContext | None:
        """Return what the work under way is about."""
        return current()

    def served(about: CallContext) -> None:
        """Do nothing."""

else:

    class _Served(otel.NonRecordingSpan):
        """Stands for the span of a call that is served here, which is ours to record."""

    def here() -> CallContext | None:
        """Return what the work under way is about: as `current`, and under an application's own span, that span."""
        about = current()
        around = otel_context.get_current()
        if not around:  # nobody has set anything
            return about
        span = otel.get_current_span(around)
        if span is otel.INVALID_SPAN or type(span) is _Served:
            return about
        known = span.get_span_context()
        if not known.is_valid:
            return about
        trace_id = f"{known.trace_id:032x}"
        return CallContext(
            about.correlation_id if about is not None else trace_id,
            trace_id,
            f"{known.span_id:016x}",
            sampled=known.trace_flags.sampled,
            deadline=about.deadline if about is not None else None,
            attributes=about.attributes if about is not None else {},
        )

    def served(about: CallContext) -> None:
        """Make the span of a call that is served OpenTelemetry's current one, for as long as the running task lasts."""
        flags = otel.TraceFlags(otel.TraceFlags.SAMPLED if about.sampled else otel.TraceFlags.DEFAULT)
        known = otel.SpanContext(int(about.trace_id, 16), int(about.span_id, 16), is_remote=False, trace_flags=flags)
        otel_context.attach(otel.set_span_in_context(_Served(known)))
