"""TLS as grpc takes it."""

from __future__ import annotations

from typing import Any

import grpc

from mesh.errors import UsageError
from proxy.tls.identity import Identity
from proxy.tls.material import Material
from proxy.tls.options import OPTIONAL, ListenerTls


def server_credentials(identity: Identity) -> grpc.ServerCredentials:
    """Return credentials of a listener that follow its files.

    Raises:
        UsageError: grpc cannot do what is asked for.

    """
    options = identity.options
    assert isinstance(options, ListenerTls)
    if options.client_ca and options.client_auth == OPTIONAL:
        raise UsageError(
            f"the aio engine cannot take certificates of clients as optional ({identity.name}): require them, ask for "
            "none, or choose --engine wire"
        )
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
        _configuration(served), fetch, require_client_authentication=bool(options.client_ca)
    )


def channel_credentials(material: Material) -> grpc.ChannelCredentials:
    """Return credentials for upstreams."""
    return grpc.ssl_channel_credentials(material.ca, material.key, material.cert)


def _configuration(material: Material) -> grpc.ServerCertificateConfiguration:
    assert material.key is not None
    assert material.cert is not None
    return grpc.ssl_server_certificate_configuration([(material.key, material.cert)], material.ca)
