"""The published schema of the application `mesh.edge`.

The one description of its document, precedence included. It is shipped as `schema.json` beside this file, and every
control process registers it at its start, so that a draft that no edge could use is not published.
"""

from __future__ import annotations

import json
from importlib import resources
from typing import Any

APPLICATION = "mesh.edge"


def text() -> str:
    """Return the schema, JSON Schema 2020-12, as it is shipped."""
    return resources.files(__package__).joinpath("schema.json").read_text(encoding="utf-8")


def document() -> dict[str, Any]:
    """Return the schema as JSON's types."""
    found: dict[str, Any] = json.loads(text())
    return found


def version(schema: str) -> int:
    """Return the number of a version of the schema, 0 for a text that has none: newer ones have larger numbers."""
    try:
        found = json.loads(schema)
    except ValueError:
        return 0
    number = found.get("version") if isinstance(found, dict) else None
    return number if isinstance(number, int) else 0
