"""The keys that secrets are encrypted under: AES-256-GCM, bound to the application and the id of the secret. Pure."""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mesh.errors import UsageError
from services.config.errors import PreconditionError, Violation

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_BYTES = 32
_NONCE_BYTES = 12
_HOW = "start it with a key in MESH_CONFIG_KEY or --config-key-file (`mesh config keygen` makes one)"


@dataclass(frozen=True, slots=True)
class Token:
    """An encrypted secret, and which key it is under."""

    key_id: str
    data: bytes


class KeyRing:
    """The first key encrypts, all decrypt."""

    def __init__(self, keys: Iterable[bytes] = ()) -> None:
        self._keys = {key_id(key): _cipher(key) for key in keys}

    @classmethod
    def parse(cls, texts: Iterable[str]) -> KeyRing:
        """Return the ring of keys in base64.

        Raises:
            UsageError: one is no key. The message does not show it.

        """
        return cls([_parse(text, number) for number, text in enumerate(texts, start=1)])

    @property
    def primary(self) -> str:
        """The id of the key that encrypts; "" when there is none."""
        return next(iter(self._keys), "")

    def encrypt(self, plaintext: str, application: str, secret_id: str, where: str) -> Token:
        """Encrypt a secret, of which a message speaks as `where`.

        Raises:
            PreconditionError: there is no key.

        """
        if not self._keys:
            what = f"is a secret, and the control process has no key to encrypt it with: {_HOW}"
            raise PreconditionError("SECRET_KEY", f"{where} {what}", [Violation(where, what)])
        nonce = os.urandom(_NONCE_BYTES)
        sealed = self._keys[self.primary].encrypt(nonce, plaintext.encode(), _bound(application, secret_id))
        return Token(self.primary, nonce + sealed)

    def decrypt(self, token: Token, application: str, secret_id: str, where: str) -> str:
        """Decrypt a secret, of which a message speaks as `where`.

        Raises:
            PreconditionError: its key is not here, or the stored secret is damaged.

        """
        key = self._keys.get(token.key_id)
        if key is None:
            message = f"{where} is under key {token.key_id}, which the control process does not have: {_HOW}"
            raise PreconditionError("SECRET_KEY", message, [Violation(where, f"needs key {token.key_id}")])
        from cryptography.exceptions import InvalidTag

        nonce, sealed = token.data[:_NONCE_BYTES], token.data[_NONCE_BYTES:]
        try:
            return key.decrypt(nonce, sealed, _bound(application, secret_id)).decode()
        except InvalidTag:
            message = f"{where} is damaged where it is stored: put it anew"
            raise PreconditionError("SECRET_DAMAGED", message, [Violation(where, "is damaged")]) from None


def _cipher(key: bytes) -> AESGCM:
    # Loaded where there are keys only: it takes a while.
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    return AESGCM(key)


def make_key() -> str:
    """Return a new key, as `KeyRing.parse` takes it."""
    return base64.urlsafe_b64encode(os.urandom(KEY_BYTES)).decode()


def key_id(key: bytes) -> str:
    """Return what a key is known by; it tells nothing of the key."""
    return hashlib.sha256(b"mesh config key\0" + key).hexdigest()[:8]


def _bound(application: str, secret_id: str) -> bytes:
    """Bind a secret to its place: moved to another one in the store, it does not decrypt."""
    return f"{application}/{secret_id}".encode()


def _parse(text: str, number: int) -> bytes:
    try:
        key = base64.urlsafe_b64decode(text.strip().replace("+", "-").replace("/", "_"))
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != KEY_BYTES:
        raise UsageError(
            f"MESH_CONFIG_KEY or --config-key-file: key {number} is not {KEY_BYTES} bytes in base64 "
            "(`mesh config keygen` makes one)"
        )
    return key
