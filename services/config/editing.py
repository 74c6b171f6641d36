"""The draft: putting and removing documents, and the schema."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mesh.api.config.v1 import Action
from mesh.config.paths import format_path
from services.config import diff, records, secrets
from services.config.checking import check, load
from services.config.errors import ConflictError, InvalidError, QuotaError, UnknownError, Violation
from services.config.keys import KeyRing
from services.config.layers import Layer
from services.config.records import App, Audit, Entry, StoredText
from services.config.repository import Change, Known, Repository, read
from services.config.secrets import Sealed
from services.config.text import Format
from services.storage.kv.base import Delete, Operation, Put

if TYPE_CHECKING:
    from services.config.schema import SchemaViolation

MAX_LAYERS = 256
MAX_APPLICATIONS = 1000
# Drafts that were replaced before they were released are kept for a while, to be looked at and put again.
KEPT_DRAFTS = 32
MAX_AUDITED_PATHS = 100


@dataclass(frozen=True, slots=True)
class Written:
    """A document of the draft as it is now, and what is new in it."""

    text: StoredText
    paths: list[str]


class Editor:
    """Changes drafts."""

    def __init__(self, repository: Repository, keys: KeyRing) -> None:
        self._repository = repository
        self._keys = keys

    async def put(
        self, name: str, layer: Layer, text: str, form: Format, author: str, expected: int | None
    ) -> tuple[Written, int]:
        """Write a document of the draft; return it and the revision."""
        sealed = await read(text, form)

        async def decide(app: App, revision: int) -> Change[Written]:
            before = await self._expected(app, layer, expected)
            if before is None and len(app.draft) >= MAX_LAYERS:
                raise QuotaError(f"'{name}' has {MAX_LAYERS} layers, which is as many as there may be: remove one")
            if not revision:
                await self._check_room(name)
            await self._check_kept(name, sealed)
            if before is not None and (before.text, before.form) == (sealed.text, form):
                return Change(app, None, Written(before, []))
            stored = StoredText(sealed.text, form, author, self._repository.now_ms())
            paths = await self._changed_paths(app, layer, sealed)
            number = app.changes + 1
            draft = {**app.draft, layer: Entry(number)}
            kept, writes = _supersede(app, layer)
            writes.append(Put(records.key("documents", name, number), records.encode_text(stored)))
            for secret_id, plaintext in sealed.plaintexts.items():
                where = next(format_path(path) for path, found in secrets.find(sealed.document) if found == secret_id)
                token = self._keys.encrypt(plaintext, name, secret_id, where)
                writes.append(Put(records.key("secrets", name, secret_id), records.encode_token(token)))
            audit = Audit(
                Action.ACTION_PUT,
                author,
                stored.time_ms,
                layer,
                paths=tuple(paths[:MAX_AUDITED_PATHS]),
                drafts={layer: number},
            )
            return Change(replace(app, draft=draft, superseded=kept), audit, Written(stored, paths), writes)

        written, revision = await self._repository.change(name, decide)
        if not written.text.revision:
            written = replace(written, text=replace(written.text, revision=revision))
        return written, revision

    async def remove(self, name: str, layer: Layer, author: str, expected: int | None) -> int:
        """Take a document out of the draft; return the revision."""

        async def decide(app: App, _: int) -> Change[None]:
            if await self._expected(app, layer, expected) is None:
                raise unknown_document(name, layer, "the draft")
            draft = {known: entry for known, entry in app.draft.items() if known != layer}
            kept, writes = _supersede(app, layer)
            audit = Audit(Action.ACTION_REMOVE, author, self._repository.now_ms(), layer, drafts={layer: 0})
            return Change(replace(app, draft=draft, superseded=kept), audit, None, writes)

        return (await self._repository.change(name, decide))[1]

    async def put_schema(
        self, name: str, text: str, author: str, expected: int | None
    ) -> tuple[list[SchemaViolation], int]:
        """Set the schema; return what of the draft does not satisfy it, and the revision."""
        schema = await load(text)

        async def decide(app: App, revision: int) -> Change[None]:
            if not revision:
                await self._check_room(name)
            before = (await self._repository.texts("schemas", name, [app.schema])).get(app.schema)
            _check_expected("the schema", expected, before)
            form = Format.JSON if text.lstrip().startswith("{") else Format.YAML
            stored = StoredText(text, form, author, self._repository.now_ms())
            number = app.changes + 1
            write = Put(records.key("schemas", name, number), records.encode_text(stored))
            audit = Audit(Action.ACTION_PUT_SCHEMA, author, stored.time_ms)
            return Change(replace(app, schema=number), audit, None, (write,))

        _, revision = await self._repository.change(name, decide)
        app = (await self._repository.app(name)).value
        documents = await draft_documents(self._repository, app)
        return await check(schema, documents), revision

    async def rotate(self, author: str) -> tuple[int, int]:
        """Encrypt under the first key what is under others; return how many of how many."""
        rotated = total = 0
        for known in await self._repository.apps():
            some, of = await self._rotate(known, author)
            rotated, total = rotated + some, total + of
        return rotated, total

    async def _rotate(self, known: Known[App], author: str) -> tuple[int, int]:
        name = known.value.name
        prefix = records.key("secrets", name, "")
        kvs = (await self._repository.store.range(prefix, prefix=True)).kvs
        old = [kv for kv in kvs if records.decode_token(kv.value).key_id != self._keys.primary]
        for begin in range(0, len(old), secrets.MAX_SECRETS):
            writes: list[Operation] = []
            for kv in old[begin : begin + secrets.MAX_SECRETS]:
                secret_id = kv.key.removeprefix(prefix)
                where = f"a secret of '{name}' ({secrets.MASKED}: {secret_id})"
                plaintext = self._keys.decrypt(records.decode_token(kv.value), name, secret_id, where)
                token = self._keys.encrypt(plaintext, name, secret_id, where)
                writes.append(Put(kv.key, records.encode_token(token)))
            comment = f"{len(writes)} secrets encrypted under key {self._keys.primary}"
            audit = Audit(Action.ACTION_ROTATE_SECRETS, author, self._repository.now_ms(), comment=comment)
            await self._repository.change(name, _always(audit, writes))
        return len(old), len(kvs)

    async def _expected(self, app: App, layer: Layer, expected: int | None) -> StoredText | None:
        """Return the present document, if it is the one that the requester has seen."""
        entry = app.draft.get(layer)
        before = None
        if entry is not None:
            before = (await self._repository.texts("documents", app.name, [entry.document]))[entry.document]
        _check_expected(str(layer), expected, before)
        return before

    async def _check_kept(self, name: str, sealed: Sealed) -> None:
        known = await self._repository.tokens(name, list(sealed.kept))
        for secret_id, path in sealed.kept.items():
            if secret_id not in known:
                what = f"'{name}' has no secret {secret_id}: write {{{secrets.SECRET}: text}} to set it"
                raise InvalidError(format_path(path), what)

    async def _check_room(self, name: str) -> None:
        if len(await self._repository.apps()) >= MAX_APPLICATIONS:
            raise QuotaError(f"there are {MAX_APPLICATIONS} applications, as many as there may be, without '{name}'")

    async def _changed_paths(self, app: App, layer: Layer, sealed: Sealed) -> list[str]:
        entry = app.draft.get(layer)
        before = {} if entry is None else (await self._repository.documents(app.name, [entry.document]))[entry.document]
        return [one.path for one in diff.diff(before, sealed.document)]


async def draft_documents(repository: Repository, app: App) -> dict[Layer, dict[str, object]]:
    """Return the documents of the draft."""
    documents = await repository.documents(app.name, [entry.document for entry in app.draft.values()])
    return {layer: documents[entry.document] for layer, entry in app.draft.items()}


def unknown_document(name: str, layer: Layer, where: str) -> UnknownError:
    return UnknownError("document", f"{name}/{layer}", f"{where} of '{name}' has no document for {layer}")


def _check_expected(what: str, expected: int | None, before: StoredText | None) -> None:
    revision = before.revision if before is not None else 0
    if expected is None or expected == revision:
        return
    now = f"is at {revision}" if before is not None else "does not exist"
    message = f"{what} {now} and not at {expected}: somebody else changed it; get it again, then put your change"
    by = f"changed by {before.author}" if before is not None else "does not exist"
    raise ConflictError(message, [Violation(what, f"{by}; mod_revision is {revision}")])


def _supersede(app: App, layer: Layer) -> tuple[tuple[int, ...], list[Operation]]:
    """Return which unreleased drafts are kept when the layer gets another one, and what deletes the rest."""
    entry = app.draft.get(layer)
    superseded = app.superseded
    if entry is not None and not entry.since:
        superseded = (*superseded, entry.document)
    gone, kept = superseded[:-KEPT_DRAFTS], superseded[-KEPT_DRAFTS:]
    return kept, [Delete(records.key("documents", app.name, number)) for number in gone]


def _always(audit: Audit, writes: list[Operation]) -> Callable[[App, int], Awaitable[Change[None]]]:
    async def decide(app: App, _: int) -> Change[None]:
        return Change(app, audit, None, writes)

    return decide
