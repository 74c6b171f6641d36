"""One value set or removed in the text of a document, with the rest of the text, comments and all, as it was. Pure."""

from __future__ import annotations

import copy
import json
import re
from typing import Any

from mesh.config.paths import Path, format_path
from mesh.errors import UsageError
from services.config import secrets, yaml_reader
from services.config import text as texts
from services.config.errors import InvalidError
from services.config.text import Format
from services.config.tree import Document, Node

_PLAIN = re.compile(r"[A-Za-z0-9_./$-]+")


def set_value(text: str, form: Format, path: Path, value: Any) -> str:
    """Return the text with `value` at `path`; mappings on the way are made.

    Raises:
        UsageError: there is something on the way that is neither mapping nor list.

    """
    wanted = copy.deepcopy(texts.read(text, form).data())
    _set(wanted, path, value)
    return _checked(_edited(text, path, value) if form is Format.YAML else "", form, wanted)


def unset_value(text: str, form: Format, path: Path) -> str:
    """Return the text without what is at `path`.

    Raises:
        UsageError: nothing is there.

    """
    wanted = copy.deepcopy(texts.read(text, form).data())
    holder = wanted
    for step in path[:-1]:
        holder = _step(holder, step, path)
    _step(holder, path[-1], path)
    del holder[path[-1]]
    return _checked(_without(text, path) if form is Format.YAML else "", form, wanted)


def parse_value(text: str) -> Any:
    """Return what a value on the command line means: as in YAML, and text where that is none, or empty."""
    if not text:
        return ""
    try:
        return texts.read(f"value: {text}\n", Format.YAML).data()["value"]
    except InvalidError:
        return text


def _checked(edited: str, form: Format, wanted: Document) -> str:
    """Return the edited text if it says what is wanted, else the document written anew."""
    try:
        if edited and texts.read(edited, form).data() == wanted:
            return edited
    except InvalidError:
        pass
    return texts.write(wanted, form)


def _edited(text: str, path: Path, value: Any) -> str:
    """Return the text with the value put where it belongs, or "" where that takes more than a line."""
    node, depth = _deepest(yaml_reader.read(text), path)
    if depth == len(path):
        if isinstance(node.value, dict | list) or node.anchored or node.end <= node.start:
            return ""
        old = text[node.start : node.end]
        return text[: node.start] + _flow(value) + old[len(old.rstrip()) :] + text[node.end :]
    if not isinstance(node.value, dict):
        return ""
    for step in reversed(path[depth + 1 :]):
        value = {step: value}
    if not depth:
        return text + ("" if not text or text.endswith("\n") else "\n") + _block(path[0], value, "")
    if not node.keys:
        return ""
    # Behind the last of its siblings, as far in as the first.
    first = min(start for start, _ in node.keys.values())
    indent = first - (text.rfind("\n", 0, first) + 1)
    end = text.find("\n", max(_end(text, node) - 1, 0))
    where = len(text) if end < 0 else end + 1
    return text[:where] + ("" if end >= 0 else "\n") + _block(path[depth], value, " " * indent) + text[where:]


def _without(text: str, path: Path) -> str:
    holder, depth = _deepest(yaml_reader.read(text), path[:-1])
    key = path[-1]
    if depth != len(path) - 1 or not isinstance(holder.value, dict) or not isinstance(key, str):
        return ""
    start = text.rfind("\n", 0, holder.keys[key][0]) + 1
    end = text.find("\n", max(_end(text, holder.value[key]) - 1, holder.keys[key][1]))
    return text[:start] + ("" if end < 0 else text[end + 1 :])


def _deepest(node: Node, path: Path) -> tuple[Node, int]:
    """Return the deepest node on the way, and how many steps lead there."""
    for depth, step in enumerate(path):
        inner: Node | None = None
        if isinstance(node.value, dict) and isinstance(step, str):
            inner = node.value.get(step)
        elif isinstance(node.value, list) and isinstance(step, int) and step < len(node.value):
            inner = node.value[step]
        if inner is None:
            return node, depth
        node = inner
    return node, len(path)


def _end(text: str, node: Node) -> int:
    """Return where the text of a node ends, as far as its scalars tell."""
    if isinstance(node.value, dict | list):
        inner = list(node.value.values()) if isinstance(node.value, dict) else node.value
        return max((_end(text, one) for one in inner), default=node.start)
    return node.start + len(text[node.start : node.end].rstrip())


def _block(key: str | int, value: Any, indent: str) -> str:
    """Return the lines of a key and its value: mappings a key a line, everything else behind its key."""
    if not isinstance(value, dict) or not value or secrets.SECRET in value:
        return f"{indent}{_flow(key)}: {_flow(value)}\n"
    inner = "".join(_block(name, one, f"{indent}  ") for name, one in value.items())
    return f"{indent}{_flow(key)}:\n{inner}"


def _flow(value: Any) -> str:
    if isinstance(value, str) and _PLAIN.fullmatch(value) and yaml_reader.resolve(value) == value and value[0] != "-":
        return value
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_flow(key)}: {_flow(inner)}" for key, inner in value.items()) + "}"
    return json.dumps(value, ensure_ascii=False)


def _set(holder: Any, path: Path, value: Any) -> None:
    for position, step in enumerate(path[:-1]):
        if isinstance(holder, dict) and isinstance(step, str) and holder.get(step) is None:
            holder[step] = {}
        holder = _step(holder, step, path[: position + 1])
    last = path[-1]
    if isinstance(last, int):
        _step(holder, last, path)  # a list does not grow by this
    elif not isinstance(holder, dict):
        raise UsageError(f"{format_path(path)}: there is nothing that it could be set in")
    holder[last] = value


def _step(holder: Any, step: str | int, path: Path) -> Any:
    if isinstance(holder, dict) and isinstance(step, str) and step in holder:
        return holder[step]
    if isinstance(holder, list) and isinstance(step, int) and step < len(holder):
        return holder[step]
    raise UsageError(f"{format_path(path)}: the document has nothing there")


def find_value(content: Any, path: Path) -> Any:
    """Return what is at `path`.

    Raises:
        UsageError: nothing is there.

    """
    for position, step in enumerate(path):
        content = _step(content, step, path[: position + 1])
    return content
