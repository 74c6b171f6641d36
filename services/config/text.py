"""Documents as text: read from either format, and written back. Pure."""

from __future__ import annotations

import enum
import json
import re
from typing import Any

import yaml

from mesh.config.paths import Path
from services.config import tree, yaml_reader
from services.config.errors import InvalidError
from services.config.tree import Document, Node, Value


class Format(enum.Enum):
    """How a document is written."""

    YAML = "yaml"
    JSON = "json"


def read(text: str, form: Format) -> Node:
    """Return the document in `text`.

    Raises:
        InvalidError: it is none; the message names the line or the path.

    """
    return yaml_reader.read(text) if form is Format.YAML else _read_json(text)


def write(document: Document, form: Format) -> str:
    """Return a text that reads as `document`."""
    if form is Format.JSON:
        return json.dumps(document, indent=2, ensure_ascii=False) + "\n"
    dumped: str = yaml.dump(
        document, Dumper=_Dumper, allow_unicode=True, sort_keys=False, default_flow_style=False, width=120
    )
    return dumped


def canonical(value: Value) -> str:
    """Return the one JSON text of a value."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


_OTHER_BREAKS = frozenset("\x85\u2028\u2029")


class _Dumper(yaml.SafeDumper):
    """Quotes what YAML 1.1 or 1.2 would take for something else than text."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    if not _OTHER_BREAKS.isdisjoint(text):
        style = '"'  # escaped there; elsewhere they are line breaks to YAML 1.1 and fold into spaces
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)
for _pattern, _starts in ((yaml_reader.OCTAL, "0"), (yaml_reader.FLOAT, "-+.0123456789")):
    _resolver = re.compile(f"^(?:{_pattern.pattern})$")
    _Dumper.add_implicit_resolver("tag:yaml.org,2002:float", _resolver, list(_starts))


class _Pairs(list[tuple[str, Any]]):
    """An object as it was written: with its duplicate keys, and told from an array."""


def _read_json(text: str) -> Node:
    tree.check_size(text)
    try:
        found = json.loads(text, object_pairs_hook=_Pairs)
    except json.JSONDecodeError as error:
        raise InvalidError(f"line {error.lineno}, column {error.colno}", f"this is not JSON ({error.msg})") from None
    except RecursionError:
        raise InvalidError("text", f"it must be at most {tree.MAX_DEPTH} levels deep") from None
    except ValueError:
        raise InvalidError("text", "it holds a number of thousands of digits") from None
    return tree.check_root(_node(found, ()))


def _node(value: Any, path: Path) -> Node:
    tree.check_depth(path)
    if isinstance(value, _Pairs):
        pairs: dict[str, Node] = {}
        for key, inner in value:
            tree.check_key(key, pairs, path)
            pairs[key] = _node(inner, (*path, key))
        return tree.collection(pairs, path)
    if isinstance(value, list):
        return tree.collection([_node(inner, (*path, index)) for index, inner in enumerate(value)], path)
    return tree.scalar(value, path)
