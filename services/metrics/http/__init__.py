"""Prometheus' HTTP API, so that promtool, Grafana and everything else that speaks it can ask here."""
