"""The shop, called through the mesh with the real programs."""

from __future__ import annotations

import json

import grpc
import pytest

from examples.shop.api.v1 import (
    ChatRequest,
    CreateOrderRequest,
    FaultsStub,
    InventoryStub,
    ListProductsRequest,
    OrdersStub,
    PlaceOrderRequest,
    RestockRequest,
    SetFaultRequest,
    Stage,
    StorefrontStub,
    WatchOrderRequest,
)
from tests.e2e.harness import PATIENCE, RunningMesh, channel, grpcurl

pytestmark = pytest.mark.xdist_group("demo")

ALL_STAGES = [Stage.STAGE_RESERVED, Stage.STAGE_PACKED, Stage.STAGE_SHIPPED, Stage.STAGE_DELIVERED]


def test_is_ready_when_it_says_so(demo: RunningMesh) -> None:
    with channel(demo.public) as opened:
        products = StorefrontStub(opened).ListProducts(ListProductsRequest(), timeout=PATIENCE).products
    assert [product.sku for product in products] == ["coffee", "mug", "tea"]
    assert sorted(demo.summary["demo"]) == ["inventory-1", "orders-1", "orders-2", "payments-1", "storefront-1"]


def test_both_instances_of_orders_get_calls(demo: RunningMesh) -> None:
    with channel(demo.public) as opened:
        shop = StorefrontStub(opened)
        taken = {shop.PlaceOrder(PlaceOrderRequest(sku="tea"), timeout=PATIENCE).taken_by for _ in range(4)}
    assert taken == {"orders-1", "orders-2"}


def test_an_order_is_placed_once_and_any_instance_follows_it(demo: RunningMesh) -> None:
    with channel(demo.public) as opened:
        shop = StorefrontStub(opened)
        request = PlaceOrderRequest(sku="mug", quantity=2, order_id="once")
        first, second = (shop.PlaceOrder(request, timeout=PATIENCE) for _ in range(2))
        assert first.total_cents == second.total_cents == 2 * 890
        assert first.payment_id == second.payment_id
        for _ in range(2):
            watched = shop.WatchOrder(WatchOrderRequest(order_id="once"), timeout=PATIENCE)
            assert [step.stage for step in watched] == ALL_STAGES


def test_streams_both_ways(demo: RunningMesh) -> None:
    with channel(demo.public) as opened:
        questions = (ChatRequest(text=text) for text in ("How much is TEA?", "hello"))
        answers = [answer.text for answer in StorefrontStub(opened).Chat(questions, timeout=PATIENCE)]
    assert answers[0].startswith("Tea, 250 g: 6.50")
    assert answers[1] == "Ask me about coffee, mug, tea."


def test_streams_from_the_client(demo: RunningMesh) -> None:
    deliveries = (RestockRequest(sku="coffee", quantity=quantity) for quantity in (1, 2, 3))
    with channel(demo.internal) as opened:
        summary = InventoryStub(opened).Restock(deliveries, timeout=PATIENCE)
    assert (summary.deliveries, summary.added) == (3, 6)


def test_a_failure_deep_inside_reaches_the_customer_as_it_was(demo: RunningMesh) -> None:
    with channel(demo.public) as opened, pytest.raises(grpc.RpcError) as caught:
        StorefrontStub(opened).PlaceOrder(PlaceOrderRequest(sku="beer"), timeout=PATIENCE)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    assert caught.value.details() == "there is no product 'beer'; there are coffee, mug, tea"


def test_only_the_storefront_is_public(demo: RunningMesh) -> None:
    with channel(demo.public) as opened, pytest.raises(grpc.RpcError) as caught:
        OrdersStub(opened).CreateOrder(CreateOrderRequest(), timeout=PATIENCE)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    names = [line for line in grpcurl(demo.public, "list").stdout.splitlines() if line.startswith("shop.")]
    assert names == ["shop.v1.Storefront"]


def test_one_conversation_has_one_id_all_the_way(demo: RunningMesh) -> None:
    conversation = "e2e:one-conversation"
    with channel(demo.public) as opened:
        reply, call = StorefrontStub(opened).PlaceOrder.with_call(
            PlaceOrderRequest(sku="tea"), timeout=PATIENCE, metadata=(("x-correlation-id", conversation),)
        )
    assert reply.order_id
    assert ("x-correlation-id", conversation) in [tuple(pair) for pair in call.initial_metadata()]


def test_a_fault_is_switched_on_and_off_at_one_instance(demo: RunningMesh) -> None:
    with channel(demo.summary["demo"]["inventory-1"]) as own, channel(demo.public) as opened:
        faults, shop = FaultsStub(own), StorefrontStub(opened)
        request = SetFaultRequest(method="Reserve", error_rate=1, error_code="RESOURCE_EXHAUSTED")
        assert faults.SetFault(request, timeout=PATIENCE).effect == "Reserve fails 100% with RESOURCE_EXHAUSTED"
        try:
            with pytest.raises(grpc.RpcError) as caught:
                shop.PlaceOrder(PlaceOrderRequest(sku="tea"), timeout=PATIENCE)
            assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            # Another method of the same process is well.
            assert shop.ListProducts(ListProductsRequest(), timeout=PATIENCE).products
            faults.SetFault(SetFaultRequest(latency_ms=60_000), timeout=PATIENCE)
            with pytest.raises(grpc.RpcError) as caught:
                shop.ListProducts(ListProductsRequest(), timeout=0.3)
            assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        finally:
            healed = faults.SetFault(SetFaultRequest(), timeout=PATIENCE)
        assert (healed.service, healed.effect) == ("inventory-1", "healthy")
        assert shop.PlaceOrder(PlaceOrderRequest(sku="tea"), timeout=PATIENCE).order_id


def test_a_fault_that_makes_no_sense_is_refused(demo: RunningMesh) -> None:
    for wrong in ({"error_rate": 2}, {"error_code": "OK"}, {"error_code": "NO_SUCH_CODE"}):
        refused = grpcurl("-d", json.dumps(wrong), demo.summary["demo"]["payments-1"], "shop.v1.Faults/SetFault")
        assert refused.returncode != 0
        assert "InvalidArgument" in refused.stderr
