"""What tests of the pure proxy parts share."""

from __future__ import annotations

from collections.abc import Sequence

from mesh.clock import Clock
from mesh.discovery.model import Directory, Health, Instance, Service
from mesh.resilience.breaker import BreakerOptions
from mesh.testing import ManualClock
from proxy.call.call import Call
from proxy.call.dispatch import Dispatcher
from proxy.call.interceptor import Interceptor
from proxy.call.limits import Limits
from proxy.call.pipeline import Pipeline
from proxy.routing.table import RouteTable, compile_table
from proxy.stack import ignore_errors
from proxy.upstream.pool import EndpointPool

ORDERS = "shop.v1.Orders"
GET = b"/shop.v1.Orders/Get"


def instance(
    number: int = 1,
    *,
    service: str = "orders",
    grpc_services: Sequence[str] = (ORDERS,),
    public: bool = False,
    health: Health = Health.SERVING,
    weight: int = 100,
) -> Instance:
    return Instance(
        service=service,
        instance_id=f"{service}-{number}",
        endpoints=(f"127.0.0.1:{10000 + number}",),
        grpc_services=tuple(grpc_services),
        public=public,
        health=health,
        weight=weight,
    )


def service(name: str = "orders", *grpc_services: str, public: bool = False, age: int = 1) -> Service:
    return Service(name, grpc_services or (ORDERS,), public, age)


def directory(*entries: Service | Instance) -> Directory:
    services = {one.name: one for one in entries if isinstance(one, Service)}
    instances = [one for one in entries if isinstance(one, Instance)]
    for one in instances:
        services.setdefault(one.service, Service(one.service, one.grpc_services, one.public, len(services) + 1))
    return Directory("cluster", 1, services, {one.key: one for one in instances})


def table(state: Directory, *, public_only: bool = False, breaker: BreakerOptions | None = None) -> RouteTable:
    pool = EndpointPool(breaker or BreakerOptions())
    pool.update(state)
    return compile_table(state, pool, public_only=public_only, local=("grpc.health.v1.Health",))


def dispatcher(
    *interceptors: Interceptor,
    state: Directory | None = None,
    clock: Clock | None = None,
    limits: Limits | None = None,
    breaker: BreakerOptions | None = None,
) -> Dispatcher:
    pipeline = Pipeline(interceptors, ignore_errors)
    made = Dispatcher(clock or ManualClock(), limits or Limits(), pipeline, pipeline)
    made.tables = {"internal": table(state or directory(instance()), breaker=breaker)}
    return made


def begin(made: Dispatcher, method: bytes = GET, *metadata: tuple[bytes, bytes]) -> Call:
    return made.begin("internal", method, metadata, "ipv4:127.0.0.1:5")
