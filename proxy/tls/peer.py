"""Who a peer's certificate says that it is. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

# SPIFFE puts its ids into a URI; a name of a host is next best; the subject is what old certificates have.
_KINDS = ("URI", "DNS")


def identity_of(certificate: Mapping[str, Any] | None) -> str:
    """Return the identity in a verified certificate as `ssl.SSLSocket.getpeercert` gives it; "" is none."""
    if not certificate:
        return ""
    names = certificate.get("subjectAltName", ())
    subject = [pair for relative in certificate.get("subject", ()) for pair in relative]
    return _first(
        *([value for known, value in names if known == kind] for kind in _KINDS),
        [value for name, value in subject if name == "commonName"],
    )


def identity_in(context: Mapping[str, Iterable[bytes]]) -> str:
    """Return the identity in a grpc call's authentication context; "" is none."""
    return _first(
        *(
            [value.decode("utf-8", "replace") for value in context.get(key, ())]
            for key in ("peer_spiffe_id", "peer_uri", "peer_dns", "x509_common_name")
        )
    )


def _first(*several: Iterable[str]) -> str:
    return next((value for values in several for value in values), "")
