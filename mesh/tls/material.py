"""The content of TLS files: read together, proved to fit together."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

from mesh.errors import StartError
from mesh.tls.options import REQUIRE, ListenerTls, UpstreamTls
from mesh.tls.validity import not_after

ALPN = "h2"


@dataclass(frozen=True, slots=True)
class Material:
    """Certificates and keys as they were at one moment, for either engine."""

    # For the wire engine; made of the files, as Python's ssl takes no bytes.
    context: ssl.SSLContext
    # For grpc; None is not there.
    cert: bytes | None
    key: bytes | None
    ca: bytes | None
    # When the certificate ends, in seconds since 1970; None without one.
    not_after: float | None


def load_listener(options: ListenerTls) -> Material:
    """Return what a listener shows and asks for.

    Raises:
        StartError: a file cannot be read, is not what it should be, or does not fit the others.

    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _harden(context)
    # A client that resumes a session shows no certificate again; one that lost our trust must not get in by it.
    context.options |= ssl.OP_NO_TICKET
    context.num_tickets = 0
    cert, key = _load_own(context, options.cert, options.key)
    ca = None
    if options.client_ca:
        ca = _load_ca(context, options.client_ca)
        context.verify_mode = ssl.CERT_REQUIRED if options.client_auth == REQUIRE else ssl.CERT_OPTIONAL
    return Material(context, cert, key, ca, _not_after(options.cert, cert))


def load_upstream(options: UpstreamTls) -> Material:
    """Return what the edge shows to upstreams and whom it trusts. Raises StartError, as `load_listener` does."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _harden(context)
    ca = cert = key = None
    if options.ca:
        ca = _load_ca(context, options.ca)
    else:
        context.load_default_certs()
    if options.cert:
        cert, key = _load_own(context, options.cert, options.key)
    return Material(context, cert, key, ca, _not_after(options.cert, cert) if cert else None)


def _harden(context: ssl.SSLContext) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols([ALPN])


def _load_own(context: ssl.SSLContext, cert: str, key: str) -> tuple[bytes, bytes]:
    cert_pem, key_pem = _read(cert, "certificate"), _read(key, "key")
    try:
        context.load_cert_chain(cert, key, password=_refuse_password)
    except (OSError, ValueError) as error:  # an SSLError is an OSError
        raise StartError(f"TLS: {cert} and {key} are not a certificate and its key ({_why(error)})") from error
    return cert_pem, key_pem


def _load_ca(context: ssl.SSLContext, ca: str) -> bytes:
    pem = _read(ca, "certificates of an authority")
    try:
        context.load_verify_locations(cadata=pem.decode("ascii"))
    except (OSError, ValueError) as error:
        raise StartError(f"TLS: {ca} has no certificates of an authority ({_why(error)})") from error
    return pem


def _read(path: str, what: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise StartError(f"TLS: cannot read the {what} {path}: {error.strerror}") from error


def _not_after(path: str, cert: bytes) -> float:
    try:
        return not_after(cert)
    except ValueError as error:
        raise StartError(f"TLS: {path} has no certificate that can be read ({error})") from error


def _refuse_password() -> str:
    # Without this, OpenSSL would ask at the terminal.
    raise ValueError("the key is encrypted")


def _why(error: Exception) -> str:
    reason = getattr(error, "reason", None)
    return str(reason).lower().replace("_", " ") if reason else str(error)
