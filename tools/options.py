"""Write the table of an edge's options in docs/operations.md from the dataclasses, or check that it is fresh.

The comment above a field says what it is, and the default stands beside it: both are written once, in the code.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import inspect
import json
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_type_hints

from proxy.engines.options import NOT_IN_AIO
from proxy.options import EdgeOptions

DOCS = Path(__file__).resolve().parent.parent / "docs" / "operations.md"
BEGIN = "<!-- options: written by `python -m tools.options` -->\n"
END = "<!-- end of options -->"

# Only on the command line: who the edge is, and where it finds the others.
NOT_IN_FILE = ("control", "instance_id")


def table() -> str:
    """Return the options as one Markdown table."""
    rows = ["| key | default | what it is |", "|---|---|---|"]
    rows += [f"| `{key}` | {default} | {said} |" for key, default, said in _rows(EdgeOptions, "")]
    return "\n".join(rows) + "\n"


def _rows(options: Any, group: str) -> Iterator[tuple[str, str, str]]:
    said, hints = _comments(options), get_type_hints(options)
    fields = [field for field in dataclasses.fields(options) if group or field.name not in NOT_IN_FILE]
    # A TOML file has its plain keys before its tables.
    for field in fields:
        if not dataclasses.is_dataclass(hints[field.name]):
            key = f"{group}.{field.name}" if group else field.name
            text = said[field.name]
            if not text:
                raise SystemExit(f"{options.__name__}.{field.name} has no comment above it: say there what it is")
            if field.name in NOT_IN_AIO.get(group, ()):
                text += ' Not with `engine = "aio"`.'
            yield key, _default(field.default), text
    for field in fields:
        if dataclasses.is_dataclass(hints[field.name]):
            yield from _rows(hints[field.name], field.name)


def _default(value: Any) -> str:
    if value is None or value == "":
        return "unset"
    return f"`{json.dumps(value)}`"


def _comments(options: Any) -> dict[str, str]:
    """Return the comment above each field."""
    source = textwrap.dedent(inspect.getsource(options))
    lines = source.splitlines()
    (body,) = [node.body for node in ast.parse(source).body if isinstance(node, ast.ClassDef)]
    said: dict[str, str] = {}
    for node in body:
        if not (isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)):
            continue
        above: list[str] = []
        number = node.lineno - 2
        while lines[number].strip().startswith("#"):
            above.insert(0, lines[number].strip("# "))
            number -= 1
        said[node.target.id] = " ".join(above).replace("|", "\\|")
    return said


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.options", description=__doc__)
    parser.add_argument("--check", action="store_true", help="only tell whether the table is fresh")
    only_check = parser.parse_args(arguments).check
    text = DOCS.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    fresh = f"{before}{BEGIN}\n{table()}\n{END}{rest.split(END)[1]}"
    if only_check and fresh != text:
        print(f"the options in {DOCS} are not those of the code: run `python -m tools.options`", file=sys.stderr)
        return 1
    if not only_check:
        DOCS.write_text(fresh, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
