"""Secrets: taken out of documents before these are stored, and put back only for whom they are for. Pure, but for dice.

A document as written has `{$secret: text}`; as stored it has `{$masked: id}`, and the text lies encrypted under that
id. So whatever is made of stored documents, a history, a difference, a log line, is masked without anybody's care.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from mesh.config.paths import Path, format_path
from services.config import text as texts
from services.config.errors import InvalidError
from services.config.text import Format
from services.config.tree import Document, Node, Value, refused

SECRET = "$secret"  # noqa: S105 - the key, not a secret
MASKED = "$masked"
MAX_SECRETS = 64
MAX_SECRET_BYTES = 16 * 1024

_ID = re.compile(r"[0-9a-f]{16}")


def new_id() -> str:
    return secrets.token_hex(8)


@dataclass(slots=True)
class Sealed:
    """A document without its secrets."""

    document: Document
    text: str
    # Secrets that are new, by id; and those that it keeps, with the first path of each.
    plaintexts: dict[str, str] = field(default_factory=dict)
    kept: dict[str, Path] = field(default_factory=dict)


def seal(text: str, form: Format, make_id: Callable[[], str] = new_id) -> Sealed:
    """Read a document and take its secrets out.

    Raises:
        InvalidError: it is no document, or a secret in it is malformed; no message shows a secret.

    """
    root = texts.read(text, form)
    sealer = _Sealer(make_id)
    document = sealer.value(root, ())
    if not isinstance(document, dict) or root.value.keys() & {SECRET, MASKED}:  # type: ignore[union-attr]
        raise refused((), "cannot be a secret as a whole: mark the values in it")
    if len(sealer.plaintexts) + len(sealer.kept) > MAX_SECRETS:
        raise refused((), f"has too many secrets: at most {MAX_SECRETS}")
    if sealer.plaintexts:
        text = _rewritten(text, form, document, sealer)
    return Sealed(document, text, sealer.plaintexts, sealer.kept)


def masked(value: Value) -> str | None:
    """Return the id of the secret that a stored value stands for; None when it is none."""
    if isinstance(value, dict) and len(value) == 1 and isinstance(found := value.get(MASKED), str):
        return found
    return None


def find(value: Value, path: Path = ()) -> Iterator[tuple[Path, str]]:
    """Yield the place and the id of every secret in a stored value."""
    if (secret_id := masked(value)) is not None:
        yield path, secret_id
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from find(inner, (*path, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from find(inner, (*path, index))


def reveal(value: Value, plaintexts: Mapping[str, str]) -> Value:
    """Return the value with its secrets in clear."""
    if (secret_id := masked(value)) is not None:
        return plaintexts[secret_id]
    if isinstance(value, dict):
        return {key: reveal(inner, plaintexts) for key, inner in value.items()}
    if isinstance(value, list):
        return [reveal(inner, plaintexts) for inner in value]
    return value


class _Sealer:
    def __init__(self, make_id: Callable[[], str]) -> None:
        self._make_id = make_id
        self.plaintexts: dict[str, str] = {}
        self.kept: dict[str, Path] = {}
        # What to put where in the text.
        self.edits: dict[tuple[int, int], str] = {}
        # By node: an alias is the same secret again, not another one.
        self._ids: dict[int, str] = {}

    def value(self, node: Node, path: Path) -> Value:
        if isinstance(node.value, list):
            return [self.value(inner, (*path, index)) for index, inner in enumerate(node.value)]
        if not isinstance(node.value, dict):
            return node.value
        if node.value.keys() & {SECRET, MASKED}:
            return {MASKED: self._id(node, node.value, path)}
        return {key: self.value(inner, (*path, key)) for key, inner in node.value.items()}

    def _id(self, node: Node, pairs: dict[str, Node], path: Path) -> str:
        if id(node) in self._ids:
            return self._ids[id(node)]
        ((key, inner), *others) = pairs.items()
        if others:
            raise refused(path, f"has other keys beside {SECRET} or {MASKED}: a secret is a value of its own")
        if inner.anchored:
            raise refused(path, "is a secret with an anchor or alias, which would show it elsewhere: write it out")
        if not isinstance(inner.value, str):
            raise refused(path, f"must have text behind {key}: put it in quotes")
        if key == MASKED:
            if not _ID.fullmatch(inner.value):
                raise refused(path, f"has a {MASKED} that is no id: write {{{SECRET}: text}} to set the secret")
            self.kept.setdefault(inner.value, path)
            return inner.value
        if not 1 <= len(inner.value.encode()) <= MAX_SECRET_BYTES:
            raise refused(path, f"must have 1 to {MAX_SECRET_BYTES} bytes behind {SECRET}")
        found = self._ids[id(node)] = self._make_id()
        self.plaintexts[found] = inner.value
        self.edits[node.keys.get(SECRET, (-1, -1))] = MASKED
        self.edits[inner.start, inner.end] = f'"{found}"'
        return found


def _rewritten(text: str, form: Format, document: Document, sealer: _Sealer) -> str:
    """Return the text with its secrets masked: as it was, comments and all, where that is possible."""
    written = texts.write(document, form)
    if form is Format.JSON:
        return written
    edited = text
    for (start, end), new in sorted(sealer.edits.items(), reverse=True):
        old = text[start:end]
        # The line break behind a block scalar counts as the scalar's.
        edited = edited[:start] + new + old[len(old.rstrip()) :] + edited[end:]
    try:
        same = texts.read(edited, form).data() == document
    except InvalidError:
        same = False
    # A comment may repeat the secret: then the comments go.
    shown = any(plain in edited and plain not in written for plain in sealer.plaintexts.values())
    return edited if same and not shown else written


def describe(secret_id: str, path: Path) -> str:
    """Return how a message speaks of a secret that it cannot have."""
    return f"the secret at {format_path(path)} ({MASKED}: {secret_id})"
