"""Health probes that are not ours: a real Envoy, and the real grpc_health_probe where Go could build it."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from examples.shop.api.v1 import ListProductsRequest, PlaceOrderRequest, StorefrontStub, WatchOrderRequest
from tests.e2e.envoy import running_envoy
from tests.e2e.harness import BIN, PATIENCE, Running, RunningMesh, eventually, instances

STOREFRONT = "shop.v1.Storefront"
PROBE = BIN / "grpc-health-probe"


@pytest.mark.xdist_group("demo")
async def test_envoy_probes_the_edge_and_calls_through_it(demo: RunningMesh, tmp_path: Path) -> None:
    async with running_envoy(demo.public, STOREFRONT, tmp_path) as envoy:
        await envoy.health_becomes(healthy=True)
        assert await envoy.checks() > 0
        async with grpc.aio.insecure_channel(envoy.address) as opened:
            shop = StorefrontStub(opened)
            call = shop.ListProducts(ListProductsRequest(), metadata=(("x-correlation-id", "by-envoy"),))
            assert len((await call).products) == 3
            assert ("x-correlation-id", "by-envoy") in list(await call.initial_metadata())
            order = await shop.PlaceOrder(PlaceOrderRequest(sku="tea", order_id="by-envoy"))
            steps = [step.order_id async for step in shop.WatchOrder(WatchOrderRequest(order_id=order.order_id))]
            assert set(steps) == {"by-envoy"}


async def test_envoy_sees_a_service_go_and_come_back(plain: RunningMesh, bare_server: str, tmp_path: Path) -> None:
    options = ("register", "probed", bare_server, "--grpc-service", "probed.v1.Probed", "--public")
    first = Running.start(tmp_path, *options, "--control", plain.control)
    try:
        await asyncio.to_thread(eventually, lambda: instances(plain.control, "probed"), "registered")
        async with running_envoy(plain.public, "probed.v1.Probed", tmp_path) as envoy:
            await envoy.health_becomes(healthy=True)
            assert await asyncio.to_thread(first.stop) == 0
            await envoy.health_becomes(healthy=False)
            second = Running.start(tmp_path, *options, "--control", plain.control)
            try:
                await envoy.health_becomes(healthy=True)
            finally:
                await asyncio.to_thread(second.stop)
    finally:
        first.kill()


@pytest.fixture
async def bare_server() -> AsyncIterator[str]:
    """Give the address of a gRPC server that knows no method, not even health."""
    server = grpc.aio.server()
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield f"127.0.0.1:{port}"
    await server.stop(None)


def probe(address: str, service: str) -> int:
    command = [str(PROBE), f"-addr={address}", f"-service={service}", "-connect-timeout=10s", "-rpc-timeout=10s"]
    return subprocess.run(command, capture_output=True, timeout=PATIENCE, check=False).returncode


@pytest.mark.skipif(not PROBE.exists(), reason="grpc_health_probe is built only where Go is at hand")
@pytest.mark.xdist_group("demo")
@pytest.mark.parametrize(
    ("listener", "service", "code"),
    [
        ("public", "", 0),
        ("public", STOREFRONT, 0),
        ("public", "storefront", 0),
        ("public", "shop.v1.Orders", 3),
        ("internal", "shop.v1.Orders", 0),
        ("internal", "orders", 0),
        ("internal", "mesh.registry.v1.Registry", 0),
        ("internal", "nobody", 3),
    ],
)
def test_grpc_health_probe(demo: RunningMesh, listener: str, service: str, code: int) -> None:
    assert probe(getattr(demo, listener), service) == code
