"""Orders: turns a wish into a reservation and a payment, or into neither."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc

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
from examples.shop.onward import onward

Context = grpc.aio.ServicerContext[Any, Any]


class Orders(OrdersServicer):
    """Keeps nothing, so that any instance answers for any order."""

    def __init__(self, name: str, mesh: grpc.aio.Channel) -> None:
        self._name = name
        self._inventory = InventoryStub(mesh)
        self._payments = PaymentsStub(mesh)

    async def CreateOrder(self, request: CreateOrderRequest, context: Context) -> CreateOrderResponse:
        order = request.order_id
        reserved = await self._inventory.Reserve(
            ReserveRequest(order_id=order, sku=request.sku, quantity=request.quantity), **onward(context)
        )
        total = reserved.price_cents * request.quantity
        try:
            paid = await self._payments.Charge(ChargeRequest(order_id=order, amount_cents=total), **onward(context))
        except grpc.aio.AioRpcError as error:
            # The caller's deadline may be what ended the charge: giving back must not fail with it.
            await self._inventory.Release(
                ReleaseRequest(order_id=order), metadata=onward(context)["metadata"], timeout=2.0
            )
            # ABORTED, not the code it got: orders is well, and no breaker may open on it for the payment's trouble.
            await context.abort(grpc.StatusCode.ABORTED, f"nothing was ordered, the payment failed: {error.details()}")
        return CreateOrderResponse(order_id=order, total_cents=total, payment_id=paid.payment_id, taken_by=self._name)

    async def FollowOrder(self, request: FollowOrderRequest, context: Context) -> AsyncIterator[FollowOrderResponse]:
        shipment = self._inventory.FollowShipment(FollowShipmentRequest(order_id=request.order_id), **onward(context))
        async for step in shipment:
            yield FollowOrderResponse(order_id=step.order_id, stage=step.stage)
