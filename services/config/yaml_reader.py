"""YAML, as far as a configuration needs it: safe, bounded, and without surprises. Pure.

It reads events, not objects, so nothing in a text can make anything but JSON's types. Plain scalars mean what YAML
1.2's core schema says: `no`, `on` and `1:30` are text, as everybody expects who has not read YAML 1.1.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import yaml

from mesh.config.paths import Path
from services.config import tree
from services.config.errors import InvalidError
from services.config.tree import Node, Scalar, refused

MAX_ALIASES = 50

# libyaml where it is there: reading a large document in Python would keep the loop for seconds.
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_CORE = "tag:yaml.org,2002:"
_NULL = re.compile(r"~|null|Null|NULL|")
_BOOL = re.compile(r"true|True|TRUE|false|False|FALSE")
_INT = re.compile(r"[-+]?[0-9]{1,40}")
OCTAL = re.compile(r"0o[0-7]{1,40}")
_HEX = re.compile(r"0x[0-9a-fA-F]{1,40}")
FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")

_KINDS: tuple[tuple[str, re.Pattern[str], Callable[[str], Scalar]], ...] = (
    ("null", _NULL, lambda _: None),
    ("bool", _BOOL, lambda text: text.lower() == "true"),
    ("int", _INT, int),
    ("int", OCTAL, lambda text: int(text, 0)),
    ("int", _HEX, lambda text: int(text, 0)),
    ("float", FLOAT, float),
    ("float", _NOT_FINITE, lambda _: float("nan")),
)


def read(text: str) -> Node:
    """Return the document in `text`.

    Raises:
        InvalidError: it is none; the message names the line or the path.

    """
    tree.check_size(text)
    try:
        return tree.check_root(_Reader(yaml.parse(text, Loader=_LOADER)).document())
    except yaml.MarkedYAMLError as error:
        # Not the error's own text: that quotes the line, and the line may hold a secret.
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}" if mark else "text"
        raise InvalidError(where, f"this is not YAML ({error.problem or error.context})") from None
    except yaml.YAMLError:
        raise InvalidError("text", "this is not YAML: it holds control characters") from None
    except UnicodeEncodeError:
        raise InvalidError("text", "it holds half of a surrogate pair, which is no character") from None


def resolve(text: str) -> Scalar:
    """Return what a plain scalar means."""
    for _, pattern, make in _KINDS:
        if pattern.fullmatch(text):
            return make(text)
    return text


class _Reader:
    def __init__(self, events: Iterator[Any]) -> None:
        self._events = events
        self._anchors: dict[str, Node] = {}
        self._aliases = 0

    def document(self) -> Node:
        next(self._events)  # the start of the stream
        if isinstance(next(self._events), yaml.StreamEndEvent):
            return Node(None)
        root = self._node(next(self._events), ())
        next(self._events)  # the end of the document
        if not isinstance(next(self._events), yaml.StreamEndEvent):
            raise InvalidError("text", "there are several documents: put each in the layer that it is for")
        return root

    def _node(self, event: Any, path: Path) -> Node:
        tree.check_depth(path)
        if isinstance(event, yaml.AliasEvent):
            return self._alias(str(event.anchor), path)
        where: dict[str, Any] = {"start": _start(event), "anchored": event.anchor is not None}
        if isinstance(event, yaml.ScalarEvent):
            node = tree.scalar(_scalar(event, path), path, end=_end(event), **where)
        elif isinstance(event, yaml.SequenceStartEvent):
            _check_tag(event.tag, "seq", path)
            node = tree.collection(self._items(path), path, **where)
        else:
            _check_tag(event.tag, "map", path)
            keys: dict[str, tuple[int, int]] = {}
            node = tree.collection(self._pairs(path, keys), path, keys=keys, **where)
        if event.anchor is not None:
            self._anchors[event.anchor] = node
        return node

    def _alias(self, name: str, path: Path) -> Node:
        self._aliases += 1
        if self._aliases > MAX_ALIASES:
            raise refused(path, f"is one alias too many: a document has at most {MAX_ALIASES}")
        node = self._anchors.get(name)
        if node is None:
            raise refused(path, f"stands for &{name[:40]}, which is not (or not yet) defined")
        if len(path) + node.height > tree.MAX_DEPTH:
            raise refused(path, f"must be at most {tree.MAX_DEPTH} levels deep")
        return node

    def _items(self, path: Path) -> list[Node]:
        items: list[Node] = []
        seen = 0
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            items.append(self._node(event, (*path, len(items))))
            seen += items[-1].size
            _check_count(seen, path)
        return items

    def _pairs(self, path: Path, keys: dict[str, tuple[int, int]]) -> dict[str, Node]:
        pairs: dict[str, Node] = {}
        seen = 0
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            key = _key(event, path)
            tree.check_key(key, pairs, path)
            keys[key] = (_start(event), _end(event))
            pairs[key] = self._node(next(self._events), (*path, key))
            seen += pairs[key].size
            _check_count(seen, path)
        return pairs


def _start(event: Any) -> int:
    return int(event.start_mark.index)


def _end(event: Any) -> int:
    return int(event.end_mark.index)


def _check_count(seen: int, path: Path) -> None:
    """Stop a bomb while it is being read, not after."""
    if seen > tree.MAX_VALUES:
        raise refused(path, f"must be at most {tree.MAX_VALUES} values, with aliases counted wherever they stand")


def _scalar(event: Any, path: Path) -> Scalar:
    plain = event.implicit[0]
    if event.tag in {None, "!"}:
        return resolve(event.value) if plain and event.tag is None else str(event.value)
    kind = event.tag.removeprefix(_CORE) if event.tag.startswith(_CORE) else ""
    if kind == "str":
        return str(event.value)
    for name, pattern, make in _KINDS:
        if name == kind and pattern.fullmatch(event.value):
            return make(event.value)
    if kind in {"null", "bool", "int", "float"}:
        raise refused(path, f"is marked !!{kind} and is none")
    raise _unknown_tag(event.tag, path)


def _key(event: Any, path: Path) -> str:
    if not isinstance(event, yaml.ScalarEvent) or event.anchor is not None:
        raise refused(path, "has a key that is not plain text")
    key = str(event.value)
    if event.implicit[0] and key == "<<":
        raise refused((*path, key), "merge keys are not supported: put what is shared in a lower layer")
    _check_tag(event.tag, "str", path)
    return key


def _check_tag(tag: str | None, allowed: str, path: Path) -> None:
    if tag not in {None, "!", _CORE + allowed}:
        raise _unknown_tag(str(tag), path)


def _unknown_tag(tag: str, path: Path) -> InvalidError:
    shown = tag.replace(_CORE, "!!")[:60]
    hint = "; a secret is written {$secret: text}" if "secret" in tag.lower() else ""
    return refused(path, f"has the tag {shown}: only YAML's core tags are taken{hint}")
