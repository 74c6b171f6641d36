"""The configuration of one instance: which release it gets, merged, checked, with its secrets if it may have them."""

from __future__ import annotations

import asyncio
import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mesh.config.paths import Path, format_path
from services.config import gray, secrets
from services.config.cache import Cache
from services.config.checking import load
from services.config.errors import PreconditionError, Violation, sentence
from services.config.keys import KeyRing
from services.config.layers import Layer, Target, merge, stack
from services.config.records import App, Entry
from services.config.repository import Repository
from services.config.text import canonical
from services.config.tree import Document

if TYPE_CHECKING:
    from services.config.schema import Schema

_CACHED_BYTES = 64 << 20
_CACHED_SCHEMAS = 64


@dataclass(frozen=True, slots=True)
class Leaf:
    """A value and where it is from."""

    path: Path
    layer: Layer
    # The release that brought this document of the layer.
    release: int


@dataclass(frozen=True, slots=True)
class Effective:
    """A merged configuration, with its secrets masked. Shared: nobody may change its document."""

    release: int
    checksum: str
    content: str
    document: Document
    leaves: tuple[Leaf, ...]
    secret_paths: tuple[tuple[Path, str], ...]


class Resolver:
    """Finds out what an instance gets."""

    def __init__(self, repository: Repository, keys: KeyRing) -> None:
        self._repository = repository
        self._keys = keys
        self._schemas: Cache[tuple[str, int], Schema] = Cache(_CACHED_SCHEMAS)
        # A fleet that comes back at once makes each schema once.
        self._loading = asyncio.Lock()
        self._cache: Cache[tuple[str, int, tuple[Entry, ...]], Effective] = Cache(_CACHED_BYTES)

    async def effective(self, name: str, number: int, target: Target) -> Effective:
        """Return what the target gets of that release; of release 0, nothing.

        Raises:
            PreconditionError: that does not satisfy the schema of the release.

        """
        if not number:
            return _make(0, {}, ())
        release = await self._repository.release(name, number)
        layers = stack(target, release.manifest)
        key = (name, number, tuple(entry for _, entry in layers))
        found = self._cache.get(key)
        if found is None:
            documents = await self._repository.documents(name, [entry.document for _, entry in layers])
            merged = merge([documents[entry.document] for _, entry in layers])
            await self._check(name, release.schema, number, target, merged.document)
            leaves = tuple(
                Leaf(origin.path, layers[origin.layer][0], layers[origin.layer][1].since) for origin in merged.origins
            )
            found = _make(number, merged.document, leaves)
            self._cache.put(key, found, 4 * len(found.content) + 200 * len(leaves))
        return found

    async def revealed(self, name: str, effective: Effective) -> str:
        """Return the content with its secrets in clear.

        Raises:
            PreconditionError: one cannot be decrypted.

        """
        if not effective.secret_paths:
            return effective.content
        tokens = await self._repository.tokens(name, list({found for _, found in effective.secret_paths}))
        plaintexts = {
            found: self._keys.decrypt(tokens[found], name, found, secrets.describe(found, path))
            for path, found in effective.secret_paths
        }
        return canonical(secrets.reveal(effective.document, plaintexts))

    async def _check(self, name: str, schema: int, number: int, target: Target, document: Document) -> None:
        if not schema:
            return
        async with self._loading:
            checker = self._schemas.get((name, schema))
            if checker is None:
                stored = (await self._repository.texts("schemas", name, [schema]))[schema]
                checker = self._schemas.put((name, schema), await load(stored.text))
        found = [Violation(format_path(path) or "the document", what) for path, what in checker.violations(document)]
        if found:
            whom = f"service '{target.service}' in environment '{target.environment}'"
            head = f"release {number} of '{name}' does not satisfy its schema for {whom}"
            raise PreconditionError("SCHEMA", sentence(head, found), found)


def assigned(app: App, target: Target) -> int:
    """Return the release that the target gets; 0 is none."""
    if app.gray is not None and gray.selects(app.gray.rule, target, f"{app.name}/{app.gray.release}"):
        return app.gray.release
    return app.stable


def _make(release: int, document: Document, leaves: tuple[Leaf, ...]) -> Effective:
    content = canonical(document)
    checksum = hashlib.sha256(content.encode()).hexdigest()
    return Effective(release, checksum, content, json.loads(content), leaves, tuple(secrets.find(document)))
