"""A document as a tree of nodes that know where in the text they stand. Pure.

Both readers, of YAML and of JSON, make the same tree, hold the same limits, and know JSON's types only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from mesh.config.paths import Path, format_path
from services.config.errors import InvalidError

MAX_DOCUMENT_BYTES = 512 * 1024
MAX_DEPTH = 32
MAX_VALUES = 20_000
MAX_KEY = 256
_MAX_INTEGER = 2**64

Scalar: TypeAlias = str | int | float | bool | None
# What JSON can say.
Value: TypeAlias = Any
Document: TypeAlias = dict[str, Value]


@dataclass(slots=True, eq=False)
class Node:
    """A value: a scalar, or the nodes of a mapping or list."""

    value: Scalar | dict[str, Node] | list[Node]
    # Where its text begins and ends; -1 where that is not known.
    start: int = -1
    end: int = -1
    # Where the text of each key of a mapping stands.
    keys: dict[str, tuple[int, int]] = field(default_factory=dict)
    # It may stand in several places.
    anchored: bool = False
    # How many values it is, all in all, and how many levels.
    size: int = 1
    height: int = 0

    def data(self) -> Value:
        """Return the tree as JSON's types."""
        if isinstance(self.value, dict):
            return {key: node.data() for key, node in self.value.items()}
        if isinstance(self.value, list):
            return [node.data() for node in self.value]
        return self.value


def scalar(value: Scalar, path: Path, **where: Any) -> Node:
    """Return a checked scalar."""
    if isinstance(value, float) and not math.isfinite(value):
        raise refused(path, "must be a finite number")
    if isinstance(value, int) and not -_MAX_INTEGER < value < _MAX_INTEGER:
        raise refused(path, "must be a number of at most 64 bits, or text in quotes")
    if isinstance(value, str):
        check_text(value, path)
    return Node(value, **where)


def collection(value: dict[str, Node] | list[Node], path: Path, **where: Any) -> Node:
    """Return a checked mapping or list."""
    inner = list(value.values()) if isinstance(value, dict) else value
    node = Node(value, **where)
    node.size += sum(one.size for one in inner)
    node.height = 1 + max((one.height for one in inner), default=0)
    # An alias may carry a tall tree to a deep place.
    if len(path) + node.height > MAX_DEPTH:
        raise refused(path, f"must be at most {MAX_DEPTH} levels deep")
    if node.size > MAX_VALUES:
        raise refused(path, f"must be at most {MAX_VALUES} values, with aliases counted wherever they stand")
    return node


def check_depth(path: Path) -> None:
    """Refuse to go deeper, before the text can exhaust the stack."""
    if len(path) > MAX_DEPTH:
        raise refused(path[:3], f"must be at most {MAX_DEPTH} levels deep")


def check_key(key: str, known: dict[str, Node], path: Path) -> None:
    if key in known:
        raise refused((*path, key), "is there twice: a key may be given once")
    if not 1 <= len(key) <= MAX_KEY:
        raise refused(path, f"has a key of {len(key)} characters: it must be 1 to {MAX_KEY}")
    check_text(key, path)


def check_text(text: str, path: Path) -> None:
    if not text.isascii() and any("\ud800" <= char <= "\udfff" for char in text):
        raise refused(path, "holds half of a surrogate pair, which is no character")


def check_size(text: str) -> None:
    size = len(text.encode("utf-8", "surrogatepass"))
    if size > MAX_DOCUMENT_BYTES:
        raise InvalidError("text", f"there are {size} bytes, a document has at most {MAX_DOCUMENT_BYTES}")


def check_root(node: Node) -> Node:
    """Return `node` as a document: a mapping; nothing at all is an empty one."""
    if node.value is None:
        return Node({})
    if not isinstance(node.value, dict):
        raise InvalidError("text", "the document must be a mapping, such as 'port: 8080' or {\"port\": 8080}")
    return node


def refused(path: Path, what: str) -> InvalidError:
    """Return the refusal of what stands at `path`."""
    return InvalidError(format_path(path) or "the document", what)
