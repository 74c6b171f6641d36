"""When a certificate ends: the one field that Python's ssl does not tell of a certificate in a file. Pure."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime

_SEQUENCE = 0x30
_VERSION = 0xA0
_UTC_TIME = 0x17
# Of the fields of a certificate (RFC 5280, 4.1), those between its version and its validity.
_BEFORE_VALIDITY = 3
_END = b"-----END CERTIFICATE-----"


def not_after(pem: bytes) -> float:
    """Return the end of the first certificate of a PEM file, in seconds since 1970.

    Raises:
        ValueError: it is no certificate.

    """
    begin, end = pem.find(b"-----BEGIN CERTIFICATE-----"), pem.find(_END)
    if begin < 0 or end < 0:
        raise ValueError("no certificate in it")
    der = ssl.PEM_cert_to_DER_cert(pem[begin : end + len(_END)].decode("ascii"))
    try:
        _, certificate, _ = _field(der)
        _, body, _ = _field(certificate)
        kind, _, rest = _field(body)
        if kind == _VERSION:
            body = rest
        for _ in range(_BEFORE_VALIDITY):
            _, _, body = _field(body)
        kind, validity, _ = _field(body)
        _, _, rest = _field(validity)
        time_kind, text, _ = _field(rest)
    except IndexError as error:
        raise ValueError("it is cut off") from error
    if kind != _SEQUENCE:
        raise ValueError("it is no X.509 certificate")
    form = "%y%m%d%H%M%SZ" if time_kind == _UTC_TIME else "%Y%m%d%H%M%SZ"
    return datetime.strptime(text.decode("ascii"), form).replace(tzinfo=UTC).timestamp()


def _field(der: bytes) -> tuple[int, bytes, bytes]:
    """Return the kind of the first field, its content, and what follows it."""
    kind, size, start = der[0], der[1], 2
    if size & 0x80:
        start += size & 0x7F
        size = int.from_bytes(der[2:start], "big")
    return kind, der[start : start + size], der[start + size :]
