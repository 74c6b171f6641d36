"""A whole mesh in one process: what a test of a service sees, breaks and heals."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import grpc
import pytest

import mesh
from examples.shop.api.v1 import (
    ChargeRequest,
    ChargeResponse,
    CreateOrderRequest,
    CreateOrderResponse,
    FollowShipmentRequest,
    InventoryStub,
    OrdersServicer,
    OrdersStub,
    PaymentsServicer,
    PaymentsStub,
    ReserveRequest,
    RestockRequest,
    add_InventoryServicer_to_server,
    add_OrdersServicer_to_server,
    add_PaymentsServicer_to_server,
)
from examples.shop.inventory import Inventory
from mesh.telemetry.spans import CLIENT, SERVER
from mesh.testing import Mesh

Code = grpc.StatusCode
CHARGE = ChargeRequest(order_id="1", amount_cents=5)


class Payments(PaymentsServicer):
    def __init__(self, name: str = "") -> None:
        self.name = name

    async def Charge(self, request: ChargeRequest, context: Any) -> ChargeResponse:
        logging.getLogger("payments").warning("charged %s", request.order_id)
        return ChargeResponse(payment_id=self.name)


class Orders(OrdersServicer):
    """Calls two others."""

    def __init__(self, m: mesh.Mesh) -> None:
        self._inventory = InventoryStub(m.channel("inventory"))
        self._payments = PaymentsStub(m.channel("payments"))

    async def CreateOrder(self, request: CreateOrderRequest, context: Any) -> CreateOrderResponse:
        await self._inventory.Reserve(ReserveRequest(order_id="1", sku="tea", quantity=1))
        await self._payments.Charge(CHARGE)
        return CreateOrderResponse()


def payments(name: str = "") -> Any:
    return lambda m: m.add(add_PaymentsServicer_to_server, Payments(name))


async def outcome(stub: Any, timeout: float = 30.0) -> Any:
    """Return who took a charge, or the code of its failure."""
    try:
        return (await stub.Charge(CHARGE, timeout=timeout)).payment_id
    except grpc.aio.AioRpcError as error:
        return error.code()


async def test_a_call_through_two_services_is_one_conversation(service_mesh: Mesh) -> None:
    await service_mesh.run("payments", payments())
    await service_mesh.run("inventory", lambda m: m.add(add_InventoryServicer_to_server, Inventory()))
    await service_mesh.run(
        "orders",
        lambda m: m.add(add_OrdersServicer_to_server, Orders(m)),  # type: ignore[abstract] # one method will do
    )
    orders = OrdersStub(service_mesh.channel("orders"))
    await orders.CreateOrder(
        CreateOrderRequest(order_id="1", sku="tea", quantity=1), metadata=(("x-correlation-id", "order-42"),)
    )
    calls = await service_mesh.called(times=3)
    assert [(call.service, call.method, call.code) for call in sorted(calls, key=lambda call: call.service)] == [
        ("inventory", "/shop.v1.Inventory/Reserve", Code.OK),
        ("orders", "/shop.v1.Orders/CreateOrder", Code.OK),
        ("payments", "/shop.v1.Payments/Charge", Code.OK),
    ]
    assert {call.correlation_id for call in calls} == {"order-42"}
    assert len({call.trace_id for call in calls}) == 1
    spans = await service_mesh.spans("order-42", at_least=6)
    assert sorted((span.service, span.kind) for span in spans) == [
        *(("inventory", SERVER), ("orders", SERVER), ("orders", CLIENT), ("orders", CLIENT)),
        *(("payments", SERVER), ("test", CLIENT)),
    ]
    (record,) = await service_mesh.logs("order-42", service="payments")
    assert (record.body, record.instance) == ("charged 1", "payments-1")
    assert [one for one in service_mesh.control.logs.records if one.body == "charged 1"] == [record]


async def test_calls_fail_wait_hang_and_drop_as_told_and_heal(service_mesh: Mesh) -> None:
    await service_mesh.run("payments", payments("well"))
    stub = PaymentsStub(service_mesh.channel("payments"))
    with service_mesh.fail("payments", Code.RESOURCE_EXHAUSTED, "no more", method="Charge", times=1) as fault:
        with pytest.raises(grpc.aio.AioRpcError, match="no more"):
            await stub.Charge(CHARGE, timeout=30.0)
        assert await outcome(stub) == "well"
        assert fault.hits == 1
    with service_mesh.hang("payments"):
        assert await outcome(stub, 0.2) is Code.DEADLINE_EXCEEDED
    with service_mesh.delay("payments", 0.01) as fault:
        assert await outcome(stub) == "well"
        assert fault.hits == 1
    with service_mesh.drop("payments", times=1):
        assert await outcome(stub) in (Code.UNAVAILABLE, "well")
    assert await outcome(stub) == "well"
    with service_mesh.fail("payments", method="Refund"), service_mesh.fail("payments", instance="payments-9"):
        assert await outcome(stub) == "well"
    (hung,) = [call for call in service_mesh.calls("payments", "Charge") if call.code is Code.CANCELLED]
    assert hung.instance == "payments-1"


async def test_streams_meet_faults_too(service_mesh: Mesh) -> None:
    await service_mesh.run("inventory", lambda m: m.add(add_InventoryServicer_to_server, Inventory()))
    stub = InventoryStub(service_mesh.channel("inventory"))
    with (
        service_mesh.fail("inventory", Code.ABORTED),
        pytest.raises(grpc.aio.AioRpcError, match="inventory-1 was told"),
    ):
        await anext(aiter(stub.FollowShipment(FollowShipmentRequest(order_id="1"), timeout=30.0)))
    with pytest.raises(grpc.aio.AioRpcError, match="no order"):
        await anext(aiter(stub.FollowShipment(FollowShipmentRequest(order_id="1"), timeout=30.0)))
    summary = await stub.Restock(iter([RestockRequest(sku="tea", quantity=2)]), timeout=30.0)
    assert summary.added == 2
    codes = [call.code for call in await service_mesh.called("inventory", times=3)]
    assert codes == [Code.ABORTED, Code.NOT_FOUND, Code.OK]


async def test_an_instance_is_killed_and_the_others_answer_until_it_is_back(service_mesh: Mesh) -> None:
    first = await service_mesh.run("payments", payments("one"))
    await service_mesh.run("payments", payments("two"))
    stub = PaymentsStub(service_mesh.channel("payments"))
    assert {await outcome(stub) for _ in range(4)} == {"one", "two"}
    await first.kill()
    assert {await outcome(stub) for _ in range(4)} == {"two"}
    await first.revive()
    async with asyncio.timeout(30):
        while await outcome(stub) != "one":
            await asyncio.sleep(0.01)  # its connection is made anew
    await first.stop()
    assert {await outcome(stub) for _ in range(4)} == {"two"}


async def test_a_breaker_opens_and_heals_when_its_time_has_passed(service_mesh: Mesh) -> None:
    await service_mesh.run("payments", payments("well"))
    stub = PaymentsStub(service_mesh.channel("payments"))
    with service_mesh.fail("payments", Code.UNAVAILABLE) as fault:
        async with asyncio.timeout(30):
            before = -1
            while fault.hits > before:
                before = fault.hits
                await outcome(stub)
    # It is open: nothing reaches the instance, which is well again.
    assert [await outcome(stub) for _ in range(5)] == [Code.UNAVAILABLE] * 5
    assert len(service_mesh.calls("payments")) == fault.hits
    service_mesh.pass_time(60)
    assert [await outcome(stub) for _ in range(5)] == ["well"] * 5


async def test_policies_are_released_as_in_production(service_mesh: Mesh) -> None:
    await service_mesh.run("payments", payments("well"))
    stub = PaymentsStub(service_mesh.channel("payments"))
    assert await outcome(stub) == "well"
    taken = await service_mesh.configure(
        "mesh.edge", {"methods": {"/shop.v1.Payments/Charge": {"retry": {"attempts": 3, "on": ["ABORTED"]}}}}
    )
    assert set(taken.values()) == {""}
    with service_mesh.fail("payments", Code.ABORTED, times=2):
        assert await outcome(stub) == "well"
    assert [call.code for call in service_mesh.calls("payments")] == [Code.OK, Code.ABORTED, Code.ABORTED, Code.OK]


async def test_a_service_that_cannot_start_says_why(service_mesh: Mesh) -> None:
    def broken(_: Any) -> None:
        raise ValueError("no settings")

    with pytest.raises(ValueError, match="no settings"):
        await service_mesh.run("payments", broken)
