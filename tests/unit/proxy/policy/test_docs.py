"""The examples of docs/routing.md satisfy the schema, and an edge takes them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from mesh.edge import schema
from mesh.edge.policy.document import GROUPS, Document
from proxy.call.limits import Limits
from proxy.policy.document import read
from services.config.schema import Schema
from services.config.text import Format
from services.config.text import read as read_text

TEXT = (Path(__file__).resolve().parents[4] / "docs" / "routing.md").read_text()
EXAMPLES = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)


def _content(text: str) -> Any:
    return read_text(text, Format.YAML).data()


@pytest.mark.parametrize("text", EXAMPLES)
def test_each_example_is_taken(text: str) -> None:
    assert Schema(schema.text()).violations(_content(text)) == []
    assert read(_content(text), Limits()) != Document()


def test_together_they_are_one_document_and_show_every_group() -> None:
    assert len(EXAMPLES) == 4
    whole: dict[str, Any] = {}
    for text in EXAMPLES:
        for key, value in _content(text).items():
            whole[key] = whole.get(key, []) + value if isinstance(value, list) else value
    found = read(whole, Limits())
    assert [route.name for route in found.routes] == ["testers", "canary", "shadow"]
    assert [group for group in GROUPS if group not in TEXT] == []
