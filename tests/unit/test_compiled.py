"""Which code the tests run: the source, or what setup.py makes of it."""

from __future__ import annotations

import importlib
import importlib.util
import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
EXPECTED = ".so" if os.environ.get("MESHPLANE_EXPECT") == "compiled" else ".py"


def _compiled() -> tuple[str, ...]:
    text = (ROOT / "setup.py").read_text(encoding="utf-8")
    found: dict[str, tuple[str, ...]] = {}
    begin = text.index("COMPILED = (")
    exec(text[begin : text.index("\n)", begin) + 2], found)
    return found["COMPILED"]


def test_what_is_compiled_exists_and_is_what_runs() -> None:
    listed = _compiled()
    assert len(listed) > 20
    assert list(listed) == sorted(set(listed))
    for path in listed:
        assert (ROOT / path).is_file(), path
        module = importlib.import_module(path.removesuffix(".py").replace("/", "."))
        assert str(module.__file__).endswith(EXPECTED), module.__file__
