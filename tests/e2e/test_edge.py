"""The edge from outside: what it shows, what it hides, what it counts."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from prometheus_client.parser import text_string_to_metric_families

from examples.shop.api.v1 import (
    FaultsStub,
    InventoryStub,
    ListProductsRequest,
    ListStockRequest,
    PlaceOrderRequest,
    SetFaultRequest,
    StorefrontStub,
)
from tests.e2e.harness import PATIENCE, RunningMesh, channel, eventually, grpcurl, running_mesh


def scrape(mesh: RunningMesh) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    with urllib.request.urlopen(f"http://{mesh.admin}/metrics", timeout=PATIENCE) as reply:
        assert reply.headers["content-type"].startswith("text/plain")
        text = reply.read().decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def pairs(metadata: Any) -> list[tuple[str, object]]:
    return [(name, value) for name, value in metadata or ()]


def labels(**values: str) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(values.items()))


@pytest.mark.xdist_group("demo")
def test_metrics_count_calls_by_service_method_and_code(demo: RunningMesh) -> None:
    place = {"listener": "public", "service": "storefront", "method": "shop.v1.Storefront/PlaceOrder"}
    before = scrape(demo)
    with channel(demo.public) as opened:
        shop = StorefrontStub(opened)
        request = PlaceOrderRequest(sku="tea", order_id="metrics")
        shop.PlaceOrder(request, timeout=PATIENCE)
        with pytest.raises(grpc.RpcError):
            shop.PlaceOrder(PlaceOrderRequest(sku="none"), timeout=PATIENCE)
    after = scrape(demo)

    def grew(name: str, **more: str) -> float:
        key = (name, labels(**place, **more))
        return after.get(key, 0) - before.get(key, 0)

    assert grew("mesh_edge_calls_total", code="OK") == 1
    assert grew("mesh_edge_calls_total", code="NOT_FOUND") == 1
    assert grew("mesh_edge_call_duration_seconds_count") == 2
    assert grew("mesh_edge_call_duration_seconds_bucket", le="+Inf") == 2
    assert grew("mesh_edge_received_bytes_total") == request.ByteSize() + PlaceOrderRequest(sku="none").ByteSize()
    assert grew("mesh_edge_sent_bytes_total") > 0
    assert after["mesh_edge_calls_in_flight", labels(**place)] == 0
    breakers = [value for (name, _), value in after.items() if name == "mesh_edge_breaker_state"]
    assert len(breakers) >= 7
    assert after["mesh_edge_registry_connected", ()] == 1


@pytest.mark.xdist_group("demo")
def test_the_admin_port_answers_probes(demo: RunningMesh) -> None:
    for path, said in (("healthz", "ok"), ("readyz", "ready")):
        with urllib.request.urlopen(f"http://{demo.admin}/{path}", timeout=PATIENCE) as reply:
            assert reply.read().decode().strip() == said


@pytest.mark.xdist_group("demo")
def test_public_reflection_tells_nothing_of_what_is_internal(demo: RunningMesh) -> None:
    listed = grpcurl(demo.public, "list").stdout.split()
    assert listed == [
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
        "shop.v1.Storefront",
    ]
    assert "rpc PlaceOrder" in grpcurl(demo.public, "describe", "shop.v1.Storefront").stdout
    assert "string sku" in grpcurl(demo.public, "describe", "shop.v1.PlaceOrderRequest").stdout
    for hidden in ("shop.v1.Orders", "shop.v1.CreateOrderRequest", "mesh.registry.v1.Registry", "shop.v1.Faults"):
        refused = grpcurl(demo.public, "describe", hidden)
        assert refused.returncode != 0
        assert "not found" in refused.stderr.lower(), refused.stderr


@pytest.mark.xdist_group("demo")
def test_internal_reflection_merges_all_that_is_there(demo: RunningMesh) -> None:
    listed = set(grpcurl(demo.internal, "list").stdout.split())
    assert {"mesh.edge.v1.Edge", "mesh.registry.v1.Registry", "shop.v1.Orders", "shop.v1.Storefront"} <= listed
    everything = grpcurl(demo.internal, "describe")
    assert everything.returncode == 0, everything.stderr
    assert all(f"{name} is a service" in everything.stdout for name in listed)
    called = grpcurl("-d", "{}", demo.internal, "shop.v1.Inventory/ListStock")
    assert [item["sku"] for item in json.loads(called.stdout)["stock"]] == ["coffee", "mug", "tea"]


@pytest.mark.xdist_group("demo")
def test_a_refusal_looks_the_same_for_what_is_hidden_and_what_is_not_there(demo: RunningMesh) -> None:
    seen = []
    with channel(demo.public) as opened:
        for service in ("shop.v1.Orders", "shop.v1.Ordres"):
            call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = opened.unary_unary(f"/{service}/CreateOrder")
            with pytest.raises(grpc.RpcError) as caught:
                call(b"", timeout=PATIENCE, metadata=(("x-correlation-id", "same"),))
            error: Any = caught.value
            text = (error.details() or "").replace(service, "*")
            seen.append((error.code(), text, pairs(error.initial_metadata()), pairs(error.trailing_metadata())))
    assert seen[0] == seen[1]
    assert seen[0][0] is grpc.StatusCode.UNIMPLEMENTED
    assert ("x-correlation-id", "same") in seen[0][2]


@pytest.fixture
def touchy(tmp_path: Path) -> Iterator[RunningMesh]:
    """A shop behind an edge whose breakers open soon and heal soon, and whose public side has no reflection."""
    config = tmp_path / "mesh.toml"
    config.write_text(
        "public_reflection = false\n[breaker]\nminimum_calls = 5\nopen_seconds = 0.5\nhalf_open_probes = 2\n"
        "[limits]\nmax_message_bytes = 65536\n"
    )
    with running_mesh(tmp_path, "--config", str(config), demo=True) as mesh:
        yield mesh


def test_the_config_file_is_in_force_and_a_breaker_opens_and_heals(touchy: RunningMesh) -> None:
    assert "does not support the reflection API" in grpcurl(touchy.public, "list").stderr

    with channel(touchy.summary["demo"]["inventory-1"]) as own, channel(touchy.internal) as opened:
        faults, stock = FaultsStub(own), InventoryStub(opened)
        faults.SetFault(SetFaultRequest(error_rate=1, error_code="INTERNAL"), timeout=PATIENCE)

        def refused() -> list[tuple[str, object]]:
            with pytest.raises(grpc.RpcError) as caught:
                stock.ListStock(ListStockRequest(), timeout=PATIENCE)
            return pairs(caught.value.trailing_metadata())

        eventually(lambda: ("mesh-reason", "breaker_open") in refused(), "the breaker opens")
        shown = touchy.mesh("services", "--json")
        (inventory,) = [one for one in json.loads(shown.stdout)["services"] if one["name"] == "inventory"]
        assert inventory["instances"][0]["endpoints"][0]["breaker"] in ("OPEN", "HALF_OPEN")
        state = [
            value
            for (name, of), value in scrape(touchy).items()
            if name == "mesh_edge_breaker_state" and ("instance", "inventory-1") in of
        ]
        assert state[0] in (1, 2)
        faults.SetFault(SetFaultRequest(), timeout=PATIENCE)
        eventually(lambda: stock.ListStock(ListStockRequest(), timeout=PATIENCE).stock, "it heals by itself")

    with channel(touchy.public) as opened:
        with pytest.raises(grpc.RpcError) as caught:
            StorefrontStub(opened).PlaceOrder(PlaceOrderRequest(sku="x" * 70_000), timeout=PATIENCE)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert ("mesh-reason", "message_too_large") in pairs(caught.value.trailing_metadata())
        assert StorefrontStub(opened).ListProducts(ListProductsRequest(), timeout=PATIENCE).products
