"""The list of known differences names tests and engines that exist, and gives reasons."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path

from tests.conformance.harness import ENGINES

FOLDER = Path(__file__).parent


def _tests(module: str) -> set[str]:
    tree = ast.parse((FOLDER / f"{module}.py").read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, (ast.AsyncFunctionDef, ast.FunctionDef))}


def test_every_entry_names_a_test_and_an_engine_and_says_why() -> None:
    known = tomllib.loads((FOLDER / "known_differences.toml").read_text(encoding="utf-8"))
    for key, reasons in known.items():
        module, _, name = key.partition(".")
        assert name in _tests(module), key
        assert set(reasons) <= set(ENGINES), key
        assert all(len(reason) > 20 for reason in reasons.values()), key
