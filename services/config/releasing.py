"""Releases: made of the draft or of an earlier one, given to some instances or to all, and taken back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mesh.api.config.v1 import Action
from services.config import records
from services.config.checking import check, load
from services.config.editing import draft_documents
from services.config.errors import ConflictError, PreconditionError, Violation, sentence
from services.config.gray import Rule
from services.config.layers import Layer
from services.config.records import App, Audit, Entry, Gray, Manifest, Release
from services.config.repository import Change, Known, Repository, unknown_application
from services.config.tree import Document
from services.storage.kv.base import Operation, Put

if TYPE_CHECKING:
    from services.config.schema import SchemaViolation


@dataclass(frozen=True, slots=True)
class RolledBack:
    release: Release
    # Layers of the draft with changes, which it keeps.
    kept: tuple[Layer, ...]
    # The gray release that this ended; 0 is none.
    aborted: int


class Releaser:
    """Makes releases."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository

    async def publish(
        self, name: str, author: str, comment: str, rule: Rule | None, expected: int | None
    ) -> tuple[Release, int]:
        """Make the draft a release; return it and the revision."""

        async def decide(app: App, revision: int) -> Change[Release]:
            _check_exists(name, revision)
            if expected is not None and expected != revision:
                message = f"'{name}' is at {revision} and not at {expected}: look at the draft again, then publish"
                raise ConflictError(message, [Violation(name, f"is at revision {revision}")])
            if app.gray is not None:
                message = (
                    f"gray release {app.gray.release} of '{name}' is under way ({app.gray.rule}): "
                    "promote or abort it first"
                )
                raise PreconditionError("GRAY_RELEASE", message)
            stable = await self._manifest(app)
            if _same(app.draft, stable):
                message = f"the draft of '{name}' is what release {app.stable} is: there is nothing to publish"
                raise PreconditionError("NO_CHANGES", message if app.stable else f"the draft of '{name}' is empty")
            await self._check_schema(app, "the draft", await draft_documents(self._repository, app))
            number = app.latest + 1
            manifest = {
                layer: entry if _same_entry(entry, stable.get(layer)) else Entry(entry.document, number)
                for layer, entry in app.draft.items()
            }
            release = self._release(app, manifest, stable, author, comment, gray_rule=rule)
            after = replace(
                app,
                latest=number,
                stable=app.stable if rule else number,
                gray=Gray(number, rule) if rule else None,
                draft=manifest,
            )
            audit = self._audit(Action.ACTION_PUBLISH, author, number, comment, rule=rule)
            return Change(after, audit, release, _write(name, release))

        return await self._repository.change(name, decide)

    async def promote(self, name: str, number: int, rule: Rule | None, author: str, comment: str) -> int:
        """Widen the gray release to `rule`, or to all without one; return the revision."""

        async def decide(app: App, revision: int) -> Change[None]:
            gray = _gray(app, revision, number)
            wider = Gray(gray.release, rule) if rule else None
            after = replace(app, gray=wider, stable=app.stable if rule else gray.release)
            return Change(after, self._audit(Action.ACTION_PROMOTE, author, gray.release, comment, rule=rule), None)

        return (await self._repository.change(name, decide))[1]

    async def abort(self, name: str, number: int, author: str, comment: str) -> int:
        """Take the gray release back; return the revision."""

        async def decide(app: App, revision: int) -> Change[None]:
            gray = _gray(app, revision, number)
            audit = self._audit(Action.ACTION_ABORT, author, gray.release, comment)
            return Change(replace(app, gray=None), audit, None)

        return (await self._repository.change(name, decide))[1]

    async def rollback(self, name: str, to: int, author: str, comment: str) -> tuple[RolledBack, int]:
        """Make a release of what an earlier one held; return it and the revision."""

        async def decide(app: App, revision: int) -> Change[RolledBack]:
            _check_exists(name, revision)
            target = await self._repository.release(name, to)
            stable = await self._manifest(app)
            if _same(target.manifest, stable) and app.gray is None:
                message = f"release {app.stable} of '{name}', which is out, is what release {to} is"
                raise PreconditionError("NO_CHANGES", f"{message}: there is nothing to roll back")
            documents = await self.documents(name, target.manifest)
            await self._check_schema(app, f"release {to}", documents)
            release = self._release(app, target.manifest, stable, author, comment, rollback_of=to)
            latest = stable if app.gray is None else (await self._repository.release(name, app.gray.release)).manifest
            draft, kept = _follow(app.draft, latest, target.manifest)
            after = replace(app, latest=release.number, stable=release.number, gray=None, draft=draft)
            moved = {layer: draft[layer].document if layer in draft else 0 for layer in _changed(app.draft, draft)}
            audit = self._audit(Action.ACTION_ROLLBACK, author, release.number, comment or f"to {to}", drafts=moved)
            aborted = app.gray.release if app.gray else 0
            return Change(after, audit, RolledBack(release, kept, aborted), _write(name, release))

        return await self._repository.change(name, decide)

    async def documents(self, name: str, manifest: Manifest) -> dict[Layer, Document]:
        """Return the documents of a release."""
        found = await self._repository.documents(name, [entry.document for entry in manifest.values()])
        return {layer: found[entry.document] for layer, entry in manifest.items()}

    async def changed(self, known: Known[App]) -> bool:
        """Tell whether the draft differs from the stable release."""
        return not _same(known.value.draft, await self._manifest(known.value))

    async def _manifest(self, app: App) -> Manifest:
        return (await self._repository.release(app.name, app.stable)).manifest if app.stable else {}

    async def _check_schema(self, app: App, what: str, documents: Mapping[Layer, Document]) -> None:
        if not app.schema:
            return
        stored = (await self._repository.texts("schemas", app.name, [app.schema]))[app.schema]
        found = await check(await load(stored.text), documents)
        if found:
            violations = [Violation(one.path or "the document", describe(one)) for one in found]
            message = sentence(f"{what} of '{app.name}' does not satisfy its schema", violations)
            raise PreconditionError("SCHEMA", message, violations)

    def _release(
        self,
        app: App,
        manifest: Manifest,
        before: Manifest,
        author: str,
        comment: str,
        *,
        rollback_of: int = 0,
        gray_rule: Rule | None = None,
    ) -> Release:
        return Release(
            number=app.latest + 1,
            author=author,
            comment=comment,
            time_ms=self._repository.now_ms(),
            manifest=manifest,
            changed=tuple(_changed(before, manifest)),
            rollback_of=rollback_of,
            gray_rule=gray_rule,
            schema=app.schema,
        )

    def _audit(
        self,
        action: Action.ValueType,
        author: str,
        release: int,
        comment: str,
        *,
        rule: Rule | None = None,
        drafts: Mapping[Layer, int] | None = None,
    ) -> Audit:
        return Audit(
            action,
            author,
            self._repository.now_ms(),
            release=release,
            comment=comment,
            rule=rule,
            drafts=drafts or {},
        )


def describe(violation: SchemaViolation) -> str:
    """Return what is wrong, and on whose account."""
    target = violation.target
    whom = [f"service {target.service}"] if target.service else []
    whom += [f"environment {target.environment}"] if target.environment else []
    return f"{violation.what} (layer {violation.layer}{', for ' + ' in '.join(whom) if whom else ''})"


def _follow(draft: Manifest, before: Manifest, after: Manifest) -> tuple[Manifest, tuple[Layer, ...]]:
    """Return the draft with what has no changes since `before` as it is in `after`, and the layers that have."""
    followed = dict(after)
    kept = []
    for layer in sorted(draft.keys() | before.keys()):
        if _same_entry(draft.get(layer), before.get(layer)):
            continue
        kept.append(layer)
        followed.pop(layer, None)
        if layer in draft:
            followed[layer] = draft[layer]
    return followed, tuple(kept)


def _changed(before: Manifest, after: Manifest) -> list[Layer]:
    return [
        layer for layer in sorted(before.keys() | after.keys()) if not _same_entry(before.get(layer), after.get(layer))
    ]


def _same(one: Manifest, other: Manifest) -> bool:
    return not _changed(one, other)


def _same_entry(one: Entry | None, other: Entry | None) -> bool:
    return (one and one.document) == (other and other.document)


def _check_exists(name: str, revision: int) -> None:
    if not revision:
        raise unknown_application(name)


def _gray(app: App, revision: int, number: int) -> Gray:
    _check_exists(app.name, revision)
    if app.gray is None:
        raise PreconditionError("GRAY_RELEASE", f"no gray release of '{app.name}' is under way")
    if number not in {0, app.gray.release}:
        message = f"the gray release of '{app.name}' that is under way is {app.gray.release}, not {number}"
        raise PreconditionError("GRAY_RELEASE", message)
    return app.gray


def _write(name: str, release: Release) -> tuple[Operation, ...]:
    return (Put(records.key("releases", name, release.number), records.encode_release(release)),)
