"""A call, a message, and a call again, in one conversation: orders are taken now, and packed when somebody has time.

With the mesh running (`mesh up --demo`, for its inventory) and a NATS server:

    python -m examples.parcels office --nats nats://127.0.0.1:4222     takes orders, as the service "office"
    python -m examples.parcels packer --nats nats://127.0.0.1:4222     packs them

Then `mesh logs ID` and `mesh trace ID` tell of an order's id both what the office did and what the packer did, though
no call connects them.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
from typing import Any

import grpc
import nats
from nats.aio.client import Client
from nats.aio.msg import Msg

import mesh
from examples.shop.api.v1 import (
    CreateOrderRequest,
    CreateOrderResponse,
    InventoryStub,
    OrdersServicer,
    ReserveRequest,
    add_OrdersServicer_to_server,
)
from mesh.messaging.nats import publish, subscribe

SUBJECT = "orders.placed"

_log = logging.getLogger("parcels")


class Office(OrdersServicer):
    """Takes orders: what it has said yes to is on its way to the packers."""

    def __init__(self, broker: Client) -> None:
        self._broker = broker

    async def CreateOrder(
        self, request: CreateOrderRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> CreateOrderResponse:
        await publish(self._broker, SUBJECT, request.SerializeToString())
        _log.info("took %s", request.order_id)
        return CreateOrderResponse(order_id=request.order_id, taken_by="office")


class Packer:
    """Packs what was ordered: its calls belong to the conversation of the order."""

    def __init__(self, m: mesh.Mesh) -> None:
        self._inventory = InventoryStub(m.channel("inventory"))

    async def pack(self, message: Msg) -> None:
        order = CreateOrderRequest.FromString(message.data)
        await self._inventory.Reserve(
            ReserveRequest(order_id=order.order_id, sku=order.sku, quantity=order.quantity), timeout=5.0
        )
        _log.info("packed %s", order.order_id)


async def run(role: str, url: str) -> None:
    """Be the office or a packer until SIGTERM."""
    broker = await nats.connect(url)
    async with mesh.join(role) as m:
        if role == "office":
            m.add(add_OrdersServicer_to_server, Office(broker))  # type: ignore[abstract] # nobody follows orders here
        else:
            # Of several packers one gets each order.
            await subscribe(broker, SUBJECT, Packer(m).pack, queue="packers")
        await m.serve()
    await broker.drain()


def main() -> int:
    """Run the command line; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m examples.parcels", description=__doc__.splitlines()[0])
    parser.add_argument("role", choices=("office", "packer"))
    parser.add_argument("--nats", default="nats://127.0.0.1:4222", metavar="URL", help="where the broker is")
    options = parser.parse_args()
    asyncio.run(run(options.role, options.nats))
    return 0


if __name__ == "__main__":
    sys.exit(main())
