"""TLS as grpc takes it."""

from __future__ import annotations

from typing import Any

import grpc

from mesh.tls.identity import Identity
from mesh.tls.material import Material


def server_credentials(identity: Identity) -> grpc.ServerCredentials:
    """Return credentials of a listener that follow its files.

    A client that must show a certificate must; grpc core knows no certificates that a client may show.
    """
    served = identity.material

    def fetch() -> Any:  # what the type stubs do not know: None stands for "as before"
        """Return what is new since the last handshake; called by grpc's threads."""
        nonlocal served
        current = identity.material
        if current is served:
            return None
        served = current
        return _configuration(current)

    return grpc.dynamic_ssl_server_credentials(
        _configuration(served), fetch, require_client_authentication=identity.asks_clients
    )


def channel_credentials(material: Material) -> grpc.ChannelCredentials:
    """Return what a client shows and whom it trusts."""
    return grpc.ssl_channel_credentials(material.ca, material.key, material.cert)


def _configuration(material: Material) -> grpc.ServerCertificateConfiguration:
    assert material.key is not None
    assert material.cert is not None
    return grpc.ssl_server_certificate_configuration([(material.key, material.cert)], material.ca)
