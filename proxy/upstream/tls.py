"""Which endpoints are called by TLS, by what their registration says."""

from __future__ import annotations

from proxy.upstream.endpoint import Endpoint

# Metadata of an instance: "on", and the name in its certificate where that is not the host of its address.
TLS = "tls"
SERVER_NAME = "tls-server-name"


def server_name(endpoint: Endpoint) -> str | None:
    """Return the name that an endpoint has to prove; None is plaintext."""
    metadata = endpoint.instance.metadata
    if metadata.get(TLS, "").lower() != "on":
        return None
    if name := metadata.get(SERVER_NAME):
        return name
    if endpoint.address.startswith("unix:"):
        return "localhost"
    return endpoint.address.rpartition(":")[0].strip("[]")
