"""TLS of a listener as grpc takes it."""

from __future__ import annotations

import grpc

from mesh.errors import UsageError
from mesh.tls import credentials
from mesh.tls.identity import Identity
from mesh.tls.options import OPTIONAL, ListenerTls


def server_credentials(identity: Identity) -> grpc.ServerCredentials:
    """Return credentials of a listener that follow its files.

    Raises:
        UsageError: grpc cannot do what is asked for.

    """
    options = identity.options
    assert isinstance(options, ListenerTls)
    if options.client_ca and options.client_auth == OPTIONAL:
        # `ssl_server_credentials(..., require_client_auth=False)` with an authority asks for none at all, and of core's
        # five types of request its Python side can choose two: none, and required and verified.
        raise UsageError(
            f"the aio engine cannot take certificates of clients as optional ({identity.name}): require them, ask for "
            "none, or choose --engine wire"
        )
    return credentials.server_credentials(identity)
