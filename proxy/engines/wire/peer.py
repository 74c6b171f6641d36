"""Where a client is."""

from __future__ import annotations


def peer_name(name: object) -> str:
    """Return an address as gRPC writes it."""
    if not isinstance(name, tuple) or len(name) < 2:
        return "unix:"
    host, port = name[0], name[1]
    return f"ipv6:%5B{host}%5D:{port}" if ":" in host else f"ipv4:{host}:{port}"
