"""TLS: what proves who an edge is and whom it trusts, kept fresh while it runs."""
