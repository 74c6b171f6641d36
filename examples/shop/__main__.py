"""Run one service of the shop: `python -m examples.shop SERVICE --listen HOST:PORT --edge HOST:PORT`."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from collections.abc import Callable

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from examples.shop.api.v1 import (
    add_FaultsServicer_to_server,
    add_InventoryServicer_to_server,
    add_OrdersServicer_to_server,
    add_PaymentsServicer_to_server,
    add_StorefrontServicer_to_server,
)
from examples.shop.interceptors import Faults
from examples.shop.inventory import Inventory
from examples.shop.orders import Orders
from examples.shop.payments import Payments
from examples.shop.storefront import Storefront

GRPC_SERVICES = {
    "storefront": "shop.v1.Storefront",
    "orders": "shop.v1.Orders",
    "payments": "shop.v1.Payments",
    "inventory": "shop.v1.Inventory",
}
DRAIN_SECONDS = 5.0


def add_service(service: str, name: str, server: grpc.aio.Server, mesh: grpc.aio.Channel) -> None:
    """Add the servicer of `service`, which calls others through `mesh` and calls itself `name`, to `server`."""
    adders: dict[str, Callable[[], None]] = {
        "storefront": lambda: add_StorefrontServicer_to_server(Storefront(mesh), server),
        "orders": lambda: add_OrdersServicer_to_server(Orders(name, mesh), server),
        "payments": lambda: add_PaymentsServicer_to_server(Payments(), server),
        "inventory": lambda: add_InventoryServicer_to_server(Inventory(), server),
    }
    adders[service]()


async def serve(service: str, name: str, listen: str, edge: str) -> int:
    """Serve `service` until SIGTERM or SIGINT; returns the exit code."""
    faults = Faults(name)
    # A port that another process has is an error here, not a port to share with it.
    server = grpc.aio.server(interceptors=(faults,), options=(("grpc.so_reuseport", 0),))
    async with grpc.aio.insecure_channel(edge) as mesh:
        add_service(service, name, server, mesh)
        add_FaultsServicer_to_server(faults, server)
        status = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(status, server)
        served = (GRPC_SERVICES[service], "shop.v1.Faults")
        reflection.enable_server_reflection((*served, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
        for grpc_service in ("", *served):
            await status.set(grpc_service, health_pb2.HealthCheckResponse.SERVING)
        try:
            port = server.add_insecure_port(listen)
        except RuntimeError:
            print(f"shop: {name} cannot listen on {listen}: is the port in use?", file=sys.stderr)
            return 1
        await server.start()
        print(f"{name} listens on {listen.rpartition(':')[0]}:{port}", flush=True)

        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        await stop.wait()
        await status.enter_graceful_shutdown()
        await server.stop(DRAIN_SECONDS)
    return 0


def main() -> int:
    """Run the command line; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m examples.shop", description=__doc__)
    parser.add_argument("service", choices=sorted(GRPC_SERVICES))
    parser.add_argument("--listen", default="127.0.0.1:0", metavar="HOST:PORT", help="default: any free port")
    parser.add_argument(
        "--edge", default="127.0.0.1:7711", metavar="HOST:PORT", help="where its calls to other services go"
    )
    parser.add_argument("--name", help="what this process calls itself; default: the service's name")
    options = parser.parse_args()
    return asyncio.run(serve(options.service, options.name or options.service, options.listen, options.edge))


if __name__ == "__main__":
    sys.exit(main())
