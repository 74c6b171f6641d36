"""Customers of the shop: places orders one after the other and counts what came of them.

`python -m examples.shop.customers 50` with the mesh running; --at is its public listener.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections import Counter

import grpc

from examples.shop.api.v1 import PlaceOrderRequest, StorefrontStub

TIMEOUT_SECONDS = 5.0


async def outcomes(address: str, orders: int) -> Counter[str]:
    """Place so many orders at `address` and return how often each outcome came."""
    counted: Counter[str] = Counter()
    async with grpc.aio.insecure_channel(address) as channel:
        shop = StorefrontStub(channel)
        for _ in range(orders):
            try:
                reply = await shop.PlaceOrder(PlaceOrderRequest(sku="tea"), timeout=TIMEOUT_SECONDS)
                counted[f"taken by {reply.taken_by}"] += 1
            except grpc.aio.AioRpcError as error:
                counted[f"{error.code().name}: {error.details()}"] += 1
    return counted


def main() -> int:
    """Run the command line; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m examples.shop.customers", description=__doc__)
    parser.add_argument("orders", type=int, nargs="?", default=50, help="how many; default: 50")
    parser.add_argument("--at", default="127.0.0.1:7710", metavar="HOST:PORT", help="where the shop is")
    options = parser.parse_args()
    for outcome, count in sorted(asyncio.run(outcomes(options.at, options.orders)).items()):
        print(f"{count:6} {outcome}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
