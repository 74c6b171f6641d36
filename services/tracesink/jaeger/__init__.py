"""The trace sink as Jaeger's own tools ask it."""
