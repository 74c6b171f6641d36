"""Run one service of the shop: `python -m examples.shop SERVICE`, in the mesh that MESH_CONTROL names."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

import mesh
from examples.shop.api.v1 import (
    add_FaultsServicer_to_server,
    add_InventoryServicer_to_server,
    add_OrdersServicer_to_server,
    add_PaymentsServicer_to_server,
    add_StorefrontServicer_to_server,
)
from examples.shop.faults import Faults
from examples.shop.inventory import Inventory
from examples.shop.orders import Orders
from examples.shop.payments import Payments
from examples.shop.storefront import Storefront
from mesh.options import default_control
from mesh.runtime import Process, run

# What each service adds to its part in the mesh.
SERVICES: dict[str, Callable[[mesh.Mesh], None]] = {
    "storefront": lambda m: m.add(add_StorefrontServicer_to_server, Storefront(m)),
    "orders": lambda m: m.add(add_OrdersServicer_to_server, Orders(m)),
    "payments": lambda m: m.add(add_PaymentsServicer_to_server, Payments()),
    "inventory": lambda m: m.add(add_InventoryServicer_to_server, Inventory()),
}
PUBLIC = "storefront"


async def join(options: argparse.Namespace, process: Process) -> None:
    """Be a service of the mesh until SIGTERM or SIGINT."""
    service, name = options.service, options.name or options.service
    faults = Faults(name)
    async with mesh.join(
        service,
        exposure="public" if service == PUBLIC else "internal",
        instance_id=name,
        version=options.version,
        listen=options.listen,
        control=options.control,
        interceptors=(faults,),
        grace_seconds=options.grace,
    ) as m:
        SERVICES[service](m)
        # For the one who calls an instance, not for the mesh to route.
        m.add(add_FaultsServicer_to_server, faults, announced=False)
        # `await m.serve()` is all of this for a service whose supervisor does not ask where it listens.
        await m.start()
        await m.registered()
        print(f"{name} listens on {m.address}", flush=True)
        process.ready({"endpoint": m.address})
        await process.stop.wait()


async def alone(options: argparse.Namespace, process: Process) -> None:
    """Serve the inventory as a plain grpc.aio server that has never heard of a mesh: for `mesh register`."""
    server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
    add_InventoryServicer_to_server(Inventory(), server)
    status = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(status, server)
    names = ("shop.v1.Inventory", health.SERVICE_NAME, reflection.SERVICE_NAME)
    reflection.enable_server_reflection(names, server)
    for grpc_service in ("", names[0]):
        await status.set(grpc_service, health_pb2.HealthCheckResponse.SERVING)
    port = server.add_insecure_port(options.listen)
    await server.start()
    print(f"{options.service} listens on {options.listen.rpartition(':')[0]}:{port}", flush=True)
    await process.stop.wait()
    await status.enter_graceful_shutdown()
    await server.stop(options.grace)


def main() -> int:
    """Run the command line; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m examples.shop", description=__doc__)
    parser.add_argument("service", choices=sorted(SERVICES))
    parser.add_argument("--listen", default="127.0.0.1:0", metavar="HOST:PORT", help="default: any free port")
    parser.add_argument("--control", default=default_control(), metavar="HOST:PORT", help="default: MESH_CONTROL")
    parser.add_argument("--name", help="what this process calls itself; default: the service's name")
    parser.add_argument("--version", default="1.0.0", help="what runs; default: 1.0.0")
    parser.add_argument("--grace", type=float, default=5.0, help="seconds for calls under way when it ends; default: 5")
    parser.add_argument("--alone", action="store_true", help="inventory only: a plain gRPC server, outside of the mesh")
    # Given by `mesh up`.
    parser.add_argument("--ready-fd", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--lifeline-fd", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--debug", action="store_true", help="show traces of errors")
    options = parser.parse_args()
    if options.alone and options.service != "inventory":
        parser.error("only the inventory can do without the others")
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    body = alone if options.alone else join
    return run(lambda process: body(options, process), Process(options.ready_fd, options.lifeline_fd, options.debug))


if __name__ == "__main__":
    sys.exit(main())
