"""Fixtures for pytest, there wherever meshplane is installed. The asynchronous ones need pytest-asyncio.

What they import is imported when a test asks for one.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mesh.testing.clock import ManualClock

if TYPE_CHECKING:
    from mesh.testing.real import RealControl
    from mesh.testing.world import Mesh

try:
    from pytest_asyncio import fixture as async_fixture
except ImportError:  # then pytest itself says that it has no idea of what is asynchronous
    async_fixture = pytest.fixture  # type: ignore[assignment]


@pytest.fixture
def mesh_clock() -> ManualClock:
    """A clock that stands still until it is told to move."""
    return ManualClock()


@async_fixture
async def service_mesh() -> AsyncIterator[Mesh]:
    """A mesh in this process, its control services in memory."""
    from mesh.testing.world import Mesh

    async with Mesh() as world:
        yield world


@async_fixture
async def mesh_control(tmp_path: Path) -> AsyncIterator[RealControl]:
    """The real control services in a process of their own, empty, on a free port: `mesh_control.address`."""
    from mesh.testing.real import RealControl

    async with RealControl(tmp_path / "control") as control:
        yield control
