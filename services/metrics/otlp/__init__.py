"""Metrics of OpenTelemetry, as samples."""
