"""Storefront: the service that the shop's customers reach."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from typing import Any

import grpc

import mesh
from examples.shop.api.v1 import (
    ChatRequest,
    ChatResponse,
    CreateOrderRequest,
    FollowOrderRequest,
    InventoryStub,
    ListProductsRequest,
    ListProductsResponse,
    ListStockRequest,
    OrdersStub,
    PlaceOrderRequest,
    PlaceOrderResponse,
    Product,
    StorefrontServicer,
    WatchOrderRequest,
    WatchOrderResponse,
)

Context = grpc.aio.ServicerContext[Any, Any]


class Storefront(StorefrontServicer):
    """Asks orders and inventory."""

    def __init__(self, m: mesh.Mesh) -> None:
        self._orders = OrdersStub(m.channel("orders"))
        self._inventory = InventoryStub(m.channel("inventory"))

    async def ListProducts(self, request: ListProductsRequest, context: Context) -> ListProductsResponse:
        return ListProductsResponse(products=await self._products())

    async def PlaceOrder(self, request: PlaceOrderRequest, context: Context) -> PlaceOrderResponse:
        name = request.order_id or f"order-{uuid.uuid4().hex[:8]}"
        mesh.annotate("order.id", name)
        order = await self._orders.CreateOrder(
            CreateOrderRequest(order_id=name, sku=request.sku, quantity=request.quantity or 1)
        )
        return PlaceOrderResponse(
            order_id=order.order_id,
            total_cents=order.total_cents,
            payment_id=order.payment_id,
            taken_by=order.taken_by,
        )

    async def WatchOrder(self, request: WatchOrderRequest, context: Context) -> AsyncIterator[WatchOrderResponse]:
        mesh.annotate("order.id", request.order_id)
        steps = self._orders.FollowOrder(FollowOrderRequest(order_id=request.order_id))
        async for step in steps:
            yield WatchOrderResponse(order_id=step.order_id, stage=step.stage)

    async def Chat(self, request_iterator: AsyncIterator[ChatRequest], context: Context) -> AsyncIterator[ChatResponse]:
        async for question in request_iterator:
            products = await self._products()
            asked = [product for product in products if product.sku in question.text.lower()]
            if asked:
                answers = (f"{p.name}: {p.price_cents / 100:.2f}, {p.in_stock} in stock." for p in asked)
                yield ChatResponse(text=" ".join(answers))
            else:
                yield ChatResponse(text=f"Ask me about {', '.join(product.sku for product in products)}.")

    async def _products(self) -> list[Product]:
        listed = await self._inventory.ListStock(ListStockRequest())
        return [
            Product(sku=item.sku, name=item.name, price_cents=item.price_cents, in_stock=item.left)
            for item in listed.stock
        ]
