"""Looking at what there is and was: documents at any time, releases, differences, the audit."""

from __future__ import annotations

import heapq
from collections.abc import AsyncIterator
from dataclasses import dataclass

from services.config.diff import Difference, diff
from services.config.editing import draft_documents, unknown_document
from services.config.errors import GoneError, UnknownError
from services.config.layers import Layer
from services.config.records import App, Audit, Release, StoredText
from services.config.releasing import Releaser
from services.config.repository import Repository
from services.config.tree import Document

_AUDIT_CHUNK = 32


@dataclass(frozen=True, slots=True)
class Compared:
    """Two releases, or a release and the draft: 0 is the draft as `after`, nothing as `before`."""

    before: int
    after: int
    layers: list[tuple[Layer, list[Difference]]]


class Reader:
    """Looks, and changes nothing."""

    def __init__(self, repository: Repository, releaser: Releaser) -> None:
        self._repository = repository
        self._releaser = releaser

    async def draft(self, app: App, layer: Layer) -> StoredText:
        entry = app.draft.get(layer)
        if entry is None:
            raise unknown_document(app.name, layer, "the draft")
        return (await self._repository.texts("documents", app.name, [entry.document]))[entry.document]

    async def released(self, app: App, layer: Layer, number: int) -> StoredText:
        entry = (await self._repository.release(app.name, number)).manifest.get(layer)
        if entry is None:
            raise unknown_document(app.name, layer, f"release {number}")
        return (await self._repository.texts("documents", app.name, [entry.document]))[entry.document]

    async def draft_at(self, app: App, layer: Layer, revision: int) -> StoredText:
        """Return the draft's document as it was at a revision."""
        present = self._repository.store.header.revision
        if revision > present:
            raise GoneError(f"at_revision: {revision} is still to come: this is {present}")
        async for audit in self._changes(app):
            if audit.revision > revision or layer not in audit.drafts:
                continue
            number = audit.drafts[layer]
            if not number:
                break
            found = await self._repository.texts("documents", app.name, [number])
            if number not in found:
                raise GoneError(
                    f"at_revision: the draft of {layer} at {revision} was never released and is no longer kept"
                )
            return found[number]
        raise unknown_document(app.name, layer, f"the draft at revision {revision}")

    async def schema(self, app: App) -> StoredText:
        if not app.schema:
            raise UnknownError("schema", app.name, f"'{app.name}' has no schema")
        return (await self._repository.texts("schemas", app.name, [app.schema]))[app.schema]

    async def history(self, app: App, limit: int, before: int) -> tuple[list[Release], bool]:
        """Return releases, newest first, and whether there are more."""
        newest = min(app.latest, before - 1) if before else app.latest
        oldest = max(newest - limit, 0)
        return await self._repository.releases(app.name, list(range(newest, oldest, -1))), oldest > 0

    async def compare(self, app: App, before: int | None, after: int | None) -> Compared:
        """Compare releases; None as `before` is the stable release, as `after` the draft."""
        before = app.stable if before is None else before
        olds = await self._documents(app, before)
        news = await draft_documents(self._repository, app) if after is None else await self._documents(app, after)
        layers = [
            (layer, diff(olds.get(layer, {}), news.get(layer, {}))) for layer in sorted(olds.keys() | news.keys())
        ]
        return Compared(before, after or 0, [(layer, found) for layer, found in layers if found])

    async def audit(self, name: str, before: int, limit: int) -> tuple[list[tuple[str, Audit]], bool]:
        """Return changes before a revision (0 is all), newest first, and whether there are more."""
        apps = [await self._repository.app(name)] if name else await self._repository.apps()
        newest: list[tuple[str, Audit]] = []
        for known in apps:
            found = 0
            async for audit in self._changes(known.value):
                if before and audit.revision >= before:
                    continue
                newest.append((known.value.name, audit))
                found += 1
                if found > limit:
                    break
        shown = heapq.nlargest(limit, newest, key=lambda one: one[1].revision)
        return shown, len(newest) > len(shown)

    async def _changes(self, app: App) -> AsyncIterator[Audit]:
        """Yield the changes of an application, newest first."""
        for end in range(app.changes, 0, -_AUDIT_CHUNK):
            numbers = list(range(end, max(end - _AUDIT_CHUNK, 0), -1))
            for audit in await self._repository.audit(app.name, numbers):
                yield audit

    async def _documents(self, app: App, number: int) -> dict[Layer, Document]:
        if not number:
            return {}
        return await self._releaser.documents(app.name, (await self._repository.release(app.name, number)).manifest)
