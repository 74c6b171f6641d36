"""Page tokens of List: where the next page begins. Opaque to clients, checked when they come back. Pure."""

from __future__ import annotations

import base64
import binascii
import json
import zlib

from services.registry.records import Key
from services.registry.validation import InvalidError


def encode(service: str, after: Key) -> str:
    """Return the token of the page behind `after`, of a listing of `service`."""
    text = json.dumps([service, *after]).encode()
    return base64.urlsafe_b64encode(zlib.crc32(text).to_bytes(4, "big") + text).decode()


def decode(token: str, service: str) -> Key | None:
    """Return what the page is behind; None for the first one.

    Raises:
        InvalidError: the token is none of ours, or belongs to another listing.

    """
    if not token:
        return None
    try:
        raw = base64.b64decode(token, altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    checksum, text = raw[:4], raw[4:]
    if not text or zlib.crc32(text).to_bytes(4, "big") != checksum:
        raise InvalidError("page_token: it must be next_page_token of the page before, unchanged")
    of_service, *after = json.loads(text)
    if of_service != service:
        raise InvalidError(f"page_token: it belongs to a listing of '{of_service or 'all services'}'")
    return after[0], after[1]
