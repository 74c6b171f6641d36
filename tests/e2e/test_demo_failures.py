"""The shop under load while parts of it, and of the mesh, are killed."""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter
from collections.abc import Iterator

import grpc
import psutil
import pytest

from examples.shop.api.v1 import ListProductsRequest, PlaceOrderRequest, StorefrontStub
from tests.e2e.harness import PATIENCE, RunningMesh, channel, eventually, instances, running_mesh

# One mesh for all of them.
pytestmark = pytest.mark.xdist_group("fragile")

CUSTOMERS = 4


@pytest.fixture(scope="module")
def fragile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningMesh]:
    with running_mesh(tmp_path_factory.mktemp("fragile"), demo=True) as mesh:
        yield mesh


class Load:
    """Customers who each wait for one order before they place the next."""

    def __init__(self, mesh: RunningMesh) -> None:
        self._mesh = mesh
        self._over = threading.Event()
        self.placed: Counter[str] = Counter()
        self.failed: list[str] = []
        self._threads = [threading.Thread(target=self._customer) for _ in range(CUSTOMERS)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(PATIENCE)

    def goes_on(self) -> None:
        """Return when so many more orders were placed that each instance of orders could get some."""
        wanted = self.placed.total() + 10 * CUSTOMERS
        eventually(lambda: self.placed.total() >= wanted, "orders are placed")

    def _customer(self) -> None:
        with channel(self._mesh.public) as opened:
            shop = StorefrontStub(opened)
            while not self._over.is_set():
                try:
                    order = shop.PlaceOrder(PlaceOrderRequest(sku="tea"), timeout=PATIENCE)
                    self.placed[order.taken_by] += 1
                except grpc.RpcError as error:
                    self.failed.append(f"{error.code()}: {error.details()}")


def shop_process(mesh: RunningMesh, instance: str) -> psutil.Process:
    """Return the server of an instance, which its keeper has started."""
    (child,) = psutil.Process(mesh.pid(instance)).children()
    return child


def test_killing_an_instance_loses_at_most_what_it_had_in_flight(fragile: RunningMesh) -> None:
    with Load(fragile) as load:
        load.goes_on()
        shop_process(fragile, "orders-1").kill()
        load.goes_on()
        # It comes back and gets calls again.
        before = load.placed["orders-1"]
        eventually(lambda: load.placed["orders-1"] > before, "orders-1 takes orders again")
    assert len(load.failed) <= CUSTOMERS, load.failed


def test_killing_the_registry_loses_nothing(fragile: RunningMesh) -> None:
    with Load(fragile) as load:
        load.goes_on()
        os.kill(fragile.pid("control"), signal.SIGKILL)
        load.goes_on()
        eventually(lambda: len(instances(fragile.control, "orders")) == 2)
        load.goes_on()
    assert load.failed == []


def test_killing_the_edge_brings_it_back_with_all_it_knew(fragile: RunningMesh) -> None:
    os.kill(fragile.pid("edge"), signal.SIGKILL)

    def answers() -> bool:
        with channel(fragile.public) as opened:
            return bool(StorefrontStub(opened).ListProducts(ListProductsRequest(), timeout=PATIENCE).products)

    eventually(answers)
    assert {"orders-1", "orders-2", "storefront-1"} <= instances(fragile.internal).keys()
