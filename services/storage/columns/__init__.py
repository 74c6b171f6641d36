"""Columnar storage: append, query, retain. Logs, spans and metrics stand on it."""
