from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from services.storage.kv.base import Store
from tests.conformance_kv.bench import Bench, EtcdBench, SqliteBench
from tests.conformance_kv.etcd_server import EtcdMember, running_etcd

DRIVERS = ("sqlite", "etcd")
# One worker runs all that needs etcd: the machine is small, and the server is shared.
GROUP = "kv"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.xdist_group(GROUP))


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdMember]:
    """One etcd for the tests of a module; each uses a namespace of its own."""
    with running_etcd(tmp_path_factory.mktemp("etcd")) as (member,):
        yield member


@pytest.fixture
def make_bench(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str], Bench]:
    """Return a maker of benches by the driver's name: etcd starts only where it is used."""

    def make(driver: str) -> Bench:
        return (
            SqliteBench(tmp_path / uuid.uuid4().hex)
            if driver == "sqlite"
            else EtcdBench(request.getfixturevalue("etcd"))
        )

    return make


@pytest.fixture(params=DRIVERS)
async def bench(request: pytest.FixtureRequest, make_bench: Callable[[str], Bench]) -> AsyncIterator[Bench]:
    """A store of each driver, empty."""
    made = make_bench(request.param)
    await made.open()
    yield made
    await made.close()


@pytest.fixture
def store(bench: Bench) -> Store:
    return bench.store
