"""Metrics: samples in, PromQL answers and alerts out."""
