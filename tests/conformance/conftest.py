"""The engines, and what is known to differ between them."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.harness import ENGINES

# How the reason of a race that an engine loses now and then begins: such a test may pass too.
SOMETIMES = "sometimes: "
KNOWN_DIFFERENCES = Path(__file__).with_name("known_differences.toml")


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    """Return the name of the engine under test."""
    return str(request.param)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests that an engine is known to fail: they must fail, for that reason."""
    with KNOWN_DIFFERENCES.open("rb") as file:
        known: dict[str, dict[str, str]] = tomllib.load(file)
    for item in items:
        callspec: Any = getattr(item, "callspec", None)
        if callspec is None or item.path.parent != KNOWN_DIFFERENCES.parent:
            continue
        test = f"{item.path.stem}.{getattr(item, 'originalname', '')}"
        reason = known.get(test, {}).get(callspec.params.get("engine"))
        if reason:
            item.add_marker(pytest.mark.xfail(strict=not reason.startswith(SOMETIMES), reason=reason))
