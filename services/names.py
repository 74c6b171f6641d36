"""The gRPC services of the control process by name, for who must know them before what serves them is loaded."""

from __future__ import annotations

# What OpenTelemetry's exporters may send at once, counted after decompression.
MAX_TELEMETRY_BYTES = 64 << 20

LOG_SINK = "mesh.logsink.v1.LogSink"
METRICS = "mesh.metrics.v1.Metrics"
OTLP_LOGS = "opentelemetry.proto.collector.logs.v1.LogsService"
OTLP_METRICS = "opentelemetry.proto.collector.metrics.v1.MetricsService"
OTLP_TRACES = "opentelemetry.proto.collector.trace.v1.TraceService"
TRACE_SINK = "mesh.tracesink.v1.TraceSink"
JAEGER_QUERY = "jaeger.api_v3.QueryService"

# What stands on the telemetry store, and is served once that is open: see `services.telemetry`.
TELEMETRY = (LOG_SINK, OTLP_LOGS, TRACE_SINK, OTLP_TRACES, JAEGER_QUERY, METRICS, OTLP_METRICS)
