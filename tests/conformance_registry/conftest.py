"""One fleet and several control processes on it, on each driver: a real file, or a real etcd."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from services.storage.kv.base import Store
from services.storage.kv.embedded import EmbeddedStore
from services.storage.kv.etcd.options import parse_url
from services.storage.kv.etcd.store import EtcdStore
from tests.conformance_kv.etcd_server import EtcdMember, running_etcd, url_of

DRIVERS = ("sqlite", "etcd")

# Gives the store of one more control process of the same fleet.
OpenStore = Callable[[], Awaitable[Store]]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.xdist_group("registry"))


@pytest.fixture(scope="session")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdMember]:
    with running_etcd(tmp_path_factory.mktemp("etcd")) as (member,):
        yield member


@pytest.fixture(params=DRIVERS)
async def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[OpenStore]:
    async with contextlib.AsyncExitStack() as stack:
        if request.param == "etcd":
            url = url_of([request.getfixturevalue("etcd")], uuid.uuid4().hex)

            async def opened() -> Store:
                return await stack.enter_async_context(EtcdStore(parse_url(url)))
        else:
            # A file has one process: what stands for several of them shares it.
            one = await stack.enter_async_context(EmbeddedStore.open(tmp_path / "kv.db"))

            async def opened() -> Store:
                return one

        yield opened
