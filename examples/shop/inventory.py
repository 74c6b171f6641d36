"""Inventory: what is there, what is promised, and where it is on its way."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import grpc

import mesh
from examples.shop.api.v1 import (
    FollowShipmentRequest,
    FollowShipmentResponse,
    InventoryServicer,
    ListStockRequest,
    ListStockResponse,
    ReleaseRequest,
    ReleaseResponse,
    ReserveRequest,
    ReserveResponse,
    RestockRequest,
    RestockResponse,
    Stage,
    Stock,
)

# Goods that are reserved get from one stage to the next in this time.
STAGE_SECONDS = 0.3
STAGES = (Stage.STAGE_RESERVED, Stage.STAGE_PACKED, Stage.STAGE_SHIPPED, Stage.STAGE_DELIVERED)

Context = grpc.aio.ServicerContext[Any, Any]


@dataclass
class Reservation:
    """Goods put aside for one order."""

    sku: str
    quantity: int
    since: float


class Inventory(InventoryServicer):
    """Keeps its shelf in memory: it is a demo's warehouse."""

    def __init__(self) -> None:
        self._shelf = {
            "coffee": Stock(sku="coffee", name="Coffee, 500 g", price_cents=1290, left=1_000_000),
            "mug": Stock(sku="mug", name="Mug", price_cents=890, left=1_000_000),
            "tea": Stock(sku="tea", name="Tea, 250 g", price_cents=650, left=1_000_000),
        }
        self._reserved: dict[str, Reservation] = {}

    async def ListStock(self, request: ListStockRequest, context: Context) -> ListStockResponse:
        return ListStockResponse(stock=self._shelf.values())

    async def Reserve(self, request: ReserveRequest, context: Context) -> ReserveResponse:
        mesh.annotate("order.id", request.order_id)
        stock = await self._stock(request.sku, context)
        if request.order_id not in self._reserved:
            if stock.left < request.quantity:
                await context.abort(
                    grpc.StatusCode.FAILED_PRECONDITION,
                    f"{stock.left} of {stock.sku} left, {request.quantity} wanted",
                )
            stock.left -= request.quantity
            self._reserved[request.order_id] = Reservation(request.sku, request.quantity, time.monotonic())
        return ReserveResponse(price_cents=stock.price_cents, left=stock.left)

    async def Release(self, request: ReleaseRequest, context: Context) -> ReleaseResponse:
        mesh.annotate("order.id", request.order_id)
        reservation = self._reserved.pop(request.order_id, None)
        if reservation is not None:
            self._shelf[reservation.sku].left += reservation.quantity
        return ReleaseResponse()

    async def Restock(self, request_iterator: AsyncIterator[RestockRequest], context: Context) -> RestockResponse:
        summary = RestockResponse()
        async for delivery in request_iterator:
            stock = await self._stock(delivery.sku, context)
            stock.left += delivery.quantity
            summary.deliveries += 1
            summary.added += delivery.quantity
        return summary

    async def FollowShipment(
        self, request: FollowShipmentRequest, context: Context
    ) -> AsyncIterator[FollowShipmentResponse]:
        reservation = self._reserved.get(request.order_id)
        if reservation is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"there is no order '{request.order_id}'")
        for number, stage in enumerate(STAGES):
            reached = reservation.since + number * STAGE_SECONDS
            await asyncio.sleep(max(0.0, reached - time.monotonic()))
            yield FollowShipmentResponse(order_id=request.order_id, stage=stage)

    async def _stock(self, sku: str, context: Context) -> Stock:
        stock = self._shelf.get(sku)
        if stock is None:
            await context.abort(
                grpc.StatusCode.NOT_FOUND, f"there is no product '{sku}'; there are {', '.join(self._shelf)}"
            )
        return stock
