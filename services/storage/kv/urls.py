"""A store by its URL."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from mesh.errors import UsageError
from services.storage.kv.base import Store
from services.storage.kv.embedded import EmbeddedStore
from services.storage.kv.etcd.options import EXAMPLE, SCHEME, parse_url
from services.storage.kv.etcd.store import EtcdStore


def open_store(url: str) -> Store:
    """Return the store that `url` names, for use in `async with`.

    `sqlite:///PATH` is a file on this machine; for `etcd://` see `services.storage.kv.etcd.options.parse_url`.

    Raises:
        UsageError: there is no such store.
        StartError: it cannot be used (with etcd, upon entering it).

    """
    if is_etcd(url):
        return EtcdStore(parse_url(url))
    return EmbeddedStore.open(_sqlite_path(url))


def check_url(url: str) -> None:
    """Raise `UsageError` unless `url` names a store."""
    if is_etcd(url):
        parse_url(url)
    else:
        _sqlite_path(url)


def is_etcd(url: str) -> bool:
    return urlsplit(url).scheme == SCHEME


def _sqlite_path(url: str) -> Path:
    parts = urlsplit(url)
    path = Path(unquote(parts.path))
    if parts.scheme != "sqlite" or parts.netloc or parts.query or not path.is_absolute() or path == Path("/"):
        # Without what stands before the colon: there may be a password in it.
        raise UsageError(
            f"--store: the URL with scheme '{parts.scheme}' names no store: "
            f"give sqlite:///ABSOLUTE/PATH or, for example, {EXAMPLE}"
        )
    return path
