"""Paths into a document: `http.port`, `routes[0].name`, `labels["a.b"]`. Pure.

One spelling for a place, the same in errors, origins, diffs and on the command line.
"""

from __future__ import annotations

import json
import re

from mesh.errors import MeshError, Source

# Keys of mappings, and positions in lists.
Path = tuple[str | int, ...]

_PLAIN = re.compile(r"[A-Za-z0-9_-]+")
_STEP = re.compile(r'\.?(?P<plain>[A-Za-z0-9_-]+)|\[(?P<index>[0-9]{1,9})\]|\[(?P<quoted>"(?:[^"\\]|\\.)*")\]')


class PathError(MeshError):
    """The text is no path."""

    source = Source.DOWNSTREAM


def format_path(path: Path) -> str:
    """Return the spelling of `path`; the empty path, the whole document, is ""."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        elif _PLAIN.fullmatch(step):
            text += f".{step}" if text else step
        else:
            text += f"[{json.dumps(step)}]"
    return text


def parse_path(text: str) -> Path:
    """Return the path that `format_path` spells as `text`.

    Raises:
        PathError: it is no such spelling.

    """
    path: list[str | int] = []
    position = 0
    while position < len(text):
        found = _STEP.match(text, position)
        dotted = found is not None and text[position] == "."
        if found is None or (dotted and not path) or (found["plain"] and path and not dotted):
            raise PathError(f"'{text}' is not a path: write http.port, routes[0].name or labels[\"a.b\"]")
        if found["index"] is not None:
            path.append(int(found["index"]))
        elif found["quoted"] is not None:
            path.append(_unquoted(found["quoted"], text))
        else:
            path.append(found["plain"])
        position = found.end()
    return tuple(path)


def _unquoted(quoted: str, text: str) -> str:
    try:
        return str(json.loads(quoted))
    except ValueError:
        raise PathError(f"'{text}' is not a path: {quoted} is not text in JSON's spelling") from None
