"""The last configuration on disk, so that an instance starts while the control plane is away.

No secret is written in clear. With a key the secrets are in the file, encrypted; without one they are left out, and
reading one raises until the control plane is back.
"""

from __future__ import annotations

import base64
import copy
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mesh.config.model import Subject, View
from mesh.config.paths import Path as Place
from mesh.config.paths import parse_path
from mesh.errors import MeshError, UsageError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

FORMAT = 1
_NONCE_BYTES = 12
_KEY_BYTES = 32


class SnapshotError(MeshError):
    """The file is there and cannot be used."""


class Snapshot:
    """The file of one instance."""

    def __init__(self, path: Path, key: str = "") -> None:
        """Keep the snapshot at `path`; `key` is 32 bytes in base64, "" is none.

        Raises:
            UsageError: it is no key.

        """
        self._path = path
        self._cipher = _cipher(key) if key else None

    def save(self, subject: Subject, view: View) -> None:
        """Replace the file at once: whoever reads it finds the old one or the new one, whole.

        Raises:
            OSError: it cannot be written.

        """
        content = copy.deepcopy(dict(view.content))
        plaintexts = {path: _take(content, parse_path(path)) for path in sorted(view.secret_paths - view.missing)}
        saved: dict[str, Any] = {
            "format": FORMAT,
            "for": _name(subject),
            "cluster_id": view.cluster_id,
            "revision": view.revision,
            "release": view.release,
            "checksum": view.checksum,
            "content": content,
            "secret_paths": sorted(view.secret_paths),
            "missing": sorted(view.missing),
        }
        if self._cipher is not None:
            nonce = os.urandom(_NONCE_BYTES)
            sealed = self._cipher.encrypt(nonce, json.dumps(plaintexts).encode(), _bound(subject))
            saved["secrets"] = base64.b64encode(nonce + sealed).decode()
        self._path.parent.mkdir(parents=True, exist_ok=True)
        scratch = self._path.with_name(self._path.name + ".new")
        fd = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(fd, "w") as file:
            json.dump(saved, file, ensure_ascii=False)
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(self._path)

    def load(self, subject: Subject) -> View | None:
        """Return what was saved; None when there is nothing, or it is somebody else's.

        Raises:
            SnapshotError: the file is damaged or cannot be read.

        """
        try:
            saved = json.loads(self._path.read_text())
            if saved["format"] != FORMAT or saved["for"] != _name(subject):
                return None
            return self._view(saved, subject)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise SnapshotError(f"the configuration's snapshot {self._path} cannot be used ({error})") from error

    def _view(self, saved: dict[str, Any], subject: Subject) -> View:
        content, paths = saved["content"], frozenset(saved["secret_paths"])
        plaintexts = self._plaintexts(saved, subject)
        for path, plaintext in plaintexts.items():
            _put(content, parse_path(path), plaintext)
        return View(
            cluster_id=saved["cluster_id"],
            revision=saved["revision"],
            release=saved["release"],
            checksum=saved["checksum"],
            content=content,
            secret_paths=paths,
            missing=paths - plaintexts.keys(),
        )

    def _plaintexts(self, saved: dict[str, Any], subject: Subject) -> dict[str, str]:
        if self._cipher is None or "secrets" not in saved:
            return {}
        from cryptography.exceptions import InvalidTag

        data = base64.b64decode(saved["secrets"])
        try:
            clear = self._cipher.decrypt(data[:_NONCE_BYTES], data[_NONCE_BYTES:], _bound(subject))
        except InvalidTag:
            return {}  # under another key: as good as left out
        found: dict[str, str] = json.loads(clear)
        return found


def _cipher(key: str) -> AESGCM:
    # Loaded where there is a key only: it takes a while.
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    return AESGCM(_parse(key))


def _name(subject: Subject) -> list[str]:
    return [subject.application, subject.service, subject.instance, subject.environment]


def _bound(subject: Subject) -> bytes:
    return json.dumps(_name(subject)).encode()


def _take(content: Any, path: Place) -> str:
    """Return the secret at `path` and leave null there."""
    found = _holder(content, path)[path[-1]]
    _put(content, path, None)
    return str(found)


def _put(content: Any, path: Place, value: str | None) -> None:
    _holder(content, path)[path[-1]] = value


def _holder(content: Any, path: Place) -> Any:
    for step in path[:-1]:
        content = content[step]
    return content


def _parse(key: str) -> bytes:
    try:
        found = base64.urlsafe_b64decode(key.strip())
    except ValueError:
        found = b""
    if len(found) != _KEY_BYTES:
        raise UsageError(f"the key of the configuration's snapshot is not {_KEY_BYTES} bytes in base64")
    return found
