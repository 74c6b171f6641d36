from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.harness import RunningMesh, running_mesh


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningMesh]:
    """A mesh with the shop, for tests that leave it as it was.

    They are marked `xdist_group("demo")`, so that there is one for all of them.
    """
    with running_mesh(tmp_path_factory.mktemp("demo"), demo=True) as mesh:
        yield mesh


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningMesh]:
    """A mesh with nothing on it, for tests that leave it running: marked `xdist_group("plain")`."""
    with running_mesh(tmp_path_factory.mktemp("plain")) as mesh:
        yield mesh
