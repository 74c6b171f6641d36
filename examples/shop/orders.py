"""Orders: turns a wish into a reservation and a payment, or into neither."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from typing import Any

import grpc

import mesh
from examples.shop.api.v1 import (
    ChargeRequest,
    CreateOrderRequest,
    CreateOrderResponse,
    FollowOrderRequest,
    FollowOrderResponse,
    FollowShipmentRequest,
    InventoryStub,
    OrdersServicer,
    PaymentsStub,
    ReleaseRequest,
    ReserveRequest,
)

Context = grpc.aio.ServicerContext[Any, Any]

log = logging.getLogger("shop.orders")


class Orders(OrdersServicer):
    """Keeps nothing, so that any instance answers for any order."""

    def __init__(self, m: mesh.Mesh) -> None:
        self._name = m.instance_id
        self._inventory = InventoryStub(m.channel("inventory"))
        self._payments = PaymentsStub(m.channel("payments"))

    async def CreateOrder(self, request: CreateOrderRequest, context: Context) -> CreateOrderResponse:
        order = request.order_id
        # So that spans and log records are found by it: mesh traces --attr order.id=...
        mesh.annotate("order.id", order)
        reserved = await self._inventory.Reserve(
            ReserveRequest(order_id=order, sku=request.sku, quantity=request.quantity)
        )
        total = reserved.price_cents * request.quantity
        try:
            paid = await self._payments.Charge(ChargeRequest(order_id=order, amount_cents=total))
        except grpc.aio.AioRpcError as error:
            # The caller's deadline may be what ended the charge: giving back must not fail with it.
            with mesh.without_deadline():
                await self._inventory.Release(ReleaseRequest(order_id=order), timeout=2.0)
            # ABORTED, not the code it got: orders is well, and no breaker may open on it for the payment's trouble.
            await context.abort(grpc.StatusCode.ABORTED, f"nothing was ordered, the payment failed: {error.details()}")
        log.info("order %s: %d x %s, paid %d cents", order, request.quantity, request.sku, total)
        return CreateOrderResponse(order_id=order, total_cents=total, payment_id=paid.payment_id, taken_by=self._name)

    async def FollowOrder(self, request: FollowOrderRequest, context: Context) -> AsyncIterator[FollowOrderResponse]:
        mesh.annotate("order.id", request.order_id)
        shipment = self._inventory.FollowShipment(FollowShipmentRequest(order_id=request.order_id))
        async for step in shipment:
            yield FollowOrderResponse(order_id=step.order_id, stage=step.stage)
