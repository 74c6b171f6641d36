"""One edge, wired together."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from pathlib import Path
from typing import Any

import grpc
from prometheus_client import generate_latest

import mesh
from mesh.clock import Clock, SystemClock
from mesh.discovery.model import Directory, Instance
from mesh.discovery.registration import Registration
from mesh.discovery.watcher import RegistryWatcher
from mesh.edge import EDGE_SERVICE
from mesh.edge.policy.document import Document
from mesh.errors import MeshError, StartError
from mesh.runtime import Process
from mesh.telemetry.resources import measured
from mesh.tls.identity import Tls
from proxy.admin import health, reflection, service
from proxy.admin.access_log import write_access_log
from proxy.admin.descriptors import DescriptorCache
from proxy.admin.http import admin_app, serve_admin
from proxy.admin.prometheus import edge_registry
from proxy.admin.service import EdgeInfo
from proxy.admin.shipping import shipping
from proxy.admin.state import MeshState
from proxy.admin.unary import UnaryLearner
from proxy.call.call import Call
from proxy.call.dispatch import Dispatcher
from proxy.call.limits import Limits
from proxy.configuration import Configuration, Own
from proxy.engines.aio.channels import Channels
from proxy.engines.aio.engine import AioEngine
from proxy.engines.engine import INTERNAL, PUBLIC, WORKER, Engine, Listener
from proxy.engines.factory import make_engine, takes_sockets
from proxy.engines.options import Protection
from proxy.memory import settle_memory
from proxy.options import ACCESS_LOG_OFF, EdgeOptions
from proxy.stack import Stack, StackOptions
from proxy.tls.metrics import TlsCollector
from proxy.upstream.endpoint import Endpoint
from proxy.upstream.plan import Plans
from proxy.upstream.tls import TLS
from proxy.upstream.weighing import Weighing
from proxy.workers.place import Place

# An edge that cannot reach a registry at its start waits this long for it before it says that it is ready: it then
# serves what it can, health and reflection, and goes on trying.
FIRST_SYNC_SECONDS = 10.0
# Once the registry has answered, this long is waited for the configuration.
FIRST_CONFIGURATION_SECONDS = 5.0
# How often endpoints that warm up are weighed.
WARM_UP_SECONDS = 1.0
# The file of the registry's last state, in the folder for it; workers have one each.
SNAPSHOT = "registry{}.snapshot"

_log = logging.getLogger(__name__)


class Edge:
    """An edge without its place in the registry: listeners, routes, and what it answers itself."""

    def __init__(self, options: EdgeOptions, clock: Clock | None = None, place: Place | None = None) -> None:
        """Make an edge; with a `place` it is one worker of one."""
        self.options = options
        self.place = place
        clock = clock or SystemClock()
        tracing = options.tracing if options.telemetry == "on" else None
        log = options.access_log != ACCESS_LOG_OFF or tracing is not None
        self.stack = Stack(clock, StackOptions(options.breaker, options.deadline, log, tracing), _hook_failed)
        reflected = reflection.NAMES if options.public_reflection else ()
        local = {
            PUBLIC: (health.NAME, *reflected),
            INTERNAL: (health.NAME, *reflection.NAMES, service.NAME),
            WORKER: (health.NAME, *reflection.NAMES, service.NAME),
        }
        self.weighing = Weighing(options.zone, clock)
        self.state = MeshState(options.breaker, local, plans=Plans(self.stack.plan), weigh=self.weighing)
        self.tls = edge_tls(options)
        self.dispatcher = Dispatcher(clock, options.limits, self.stack.routed, self.stack.local)
        self.dispatcher.tables = self.state.tables
        self.engine: Engine = make_engine(
            options.engine, self.dispatcher, self.tls.upstream, protection=options.protection, pool=options.pool
        )
        # What the registry said while it is not clear yet what the configuration makes of it.
        self._held: Directory | None = None
        self._routed = asyncio.Event()
        instance_id = options.instance_id or f"edge-{socket.gethostname()}-{os.getpid()}"
        suffix = "" if place is None else f"-w{place.index}"
        kept = Path(options.state) / SNAPSHOT.format(suffix) if options.state else None
        self.watcher = RegistryWatcher(options.control, self._hear, name=instance_id, state=kept, clock=clock)
        self.info = EdgeInfo(
            instance_id=instance_id,
            engine=self.engine.name,
            interceptors=self.stack.routed.names,
            clock=clock,
            registry_connected=lambda: self.watcher.connected,
            registry_doubts=lambda: (int(self.watcher.from_disk), self.watcher.held),
            started_at=clock.now(),
        )
        self.configuration = Configuration(
            options.control,
            self.info.instance_id,
            options.environment,
            {"version": mesh.__version__, "engine": self.engine.name, "host": socket.gethostname()},
            Own(options.limits, options.protection),
            self.configure,
            clock,
        )
        self.info.configuration = self.configuration
        if options.state:
            self.configuration.keep(Path(options.state), suffix)
        # Reflection asks instances over channels of its own: they must not count as calls.
        self._asking = Channels(options.limits, self.tls.upstream)
        self._cache = DescriptorCache(self._asking.get)

    @contextlib.asynccontextmanager
    async def serve(self, stop: asyncio.Event) -> AsyncIterator[dict[str, str]]:
        """Serve while the context is open; yields the addresses by name. Calls get `grace` seconds at the end.

        Raises:
            StartError: it cannot start, or shall `stop` before it has.

        """
        options, place, log = self.options, self.place, self.stack.access_log
        async with contextlib.AsyncExitStack() as stack:
            registry = edge_registry(self.stack, self.state, self.info)
            if log is not None:
                also = None
                if options.telemetry == "on":
                    also = await stack.enter_async_context(shipping(options, self.info, registry))
                await stack.enter_async_context(write_access_log(log, options.access_log, also))
            registry.register(TlsCollector(self.tls))
            # Of the host the master tells, where there is one.
            await stack.enter_async_context(measured(registry, host=place is None))
            app = admin_app(registry, self.state)
            where = f"unix:{place.admin}" if place is not None else options.admin
            addresses = {"admin": await stack.enter_async_context(serve_admin(app, where))}
            if place is not None:
                stack.callback(lambda: place.leave(generate_latest(registry)))
            stack.push_async_callback(self._asking.close)
            if place is not None:
                await self._follow(stack)
                await self._learn_routes(stop, place)
            stack.push_async_callback(self._stop_engine)
            addresses |= await self.engine.start(self._listeners())
            if place is not None:
                addresses |= place.addresses
            self.info.addresses = addresses
            if place is None:
                await self._follow(stack)
            if isinstance(self.engine, AioEngine):
                learner = UnaryLearner(self.state, self._asking.get, self.engine.claims)
                await stack.enter_async_context(_running(learner.run()))
            await stack.enter_async_context(_running(self._warm_up()))
            if self.tls.has_files:
                await stack.enter_async_context(_running(self.tls.watch()))
            yield addresses

    def apply(self, directory: Directory) -> None:
        """Take a new state of the registry into force."""
        self.state.update(directory, self._forget)
        self._routed.set()

    def configure(self, document: Document, limits: Limits, protection: Protection) -> Sequence[str]:
        """Take a release into force; calls under way go on under what they began with.

        Returns what of the edge's own bounds the engine cannot change while it runs.
        """
        self.state.configure(document, limits)
        self.dispatcher.limits = limits
        return self.engine.follow(limits, protection)

    async def _warm_up(self) -> None:
        """Weigh the endpoints anew while some of them warm up, and once more when they are done."""
        while True:
            await asyncio.sleep(WARM_UP_SECONDS)
            self.state.reweigh(self.weighing.changes)

    async def synced(self) -> bool:
        """Wait for the first routes from the registry; returns whether they came in time."""
        try:
            await asyncio.wait_for(self._routed.wait(), FIRST_SYNC_SECONDS)
        except TimeoutError:
            return False
        return True

    async def _follow(self, stack: contextlib.AsyncExitStack) -> None:
        """Follow the control plane as long as `stack` is open."""
        for work in (self.configuration.run(), self.watcher.run(), self._begin_routing()):
            await stack.enter_async_context(_running(work))

    def _hear(self, directory: Directory) -> None:
        """Hear the registry, at first without acting on it.

        An edge that does not know its configuration yet would show for a moment what that hides.
        """
        if self._routed.is_set():
            self.apply(directory)
        else:
            self._held = directory

    async def _begin_routing(self) -> None:
        """Take the registry's first word into force when the configuration is known, or has had its time."""
        await self.watcher.synced()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.configuration.known(), FIRST_CONFIGURATION_SECONDS)
        assert self._held is not None
        self.apply(self._held)
        self._held = None

    def _listeners(self) -> list[Listener]:
        options, place = self.options, self.place
        where = {PUBLIC: options.public, INTERNAL: options.internal}
        local = {PUBLIC: self._add_local(PUBLIC, reflect=options.public_reflection)}
        local |= {name: self._add_local(name, reflect=True) for name in (INTERNAL, WORKER)}
        tls = self.tls.listeners
        if place is None:
            return [Listener(name, where[name], local[name], tls=tls.get(name)) for name in where]
        shared = not takes_sockets(options.engine)
        # What others ask of this worker, such as its breakers, must not reach one of its siblings.
        alone = f"{options.internal.rpartition(':')[0]}:0"
        return [
            *(
                Listener(name, place.addresses[name], local[name], place.take_over(name), shared, tls.get(name))
                for name in where
            ),
            Listener(WORKER, alone, local[WORKER], tls=tls.get(INTERNAL)),
        ]

    async def _learn_routes(self, stop: asyncio.Event, place: Place) -> None:
        """Wait for the registry before taking a call; its socket waits meanwhile, or who it replaces serves it.

        Without one to replace, it does not wait for ever.
        """
        waits = [asyncio.create_task(self._routed.wait()), asyncio.create_task(stop.wait())]
        try:
            limit = None if place.replaces else FIRST_SYNC_SECONDS
            await asyncio.wait(waits, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                await _ended(wait)
        if stop.is_set():
            raise StartError(f"worker {place.index} was stopped before it was ready")

    async def _stop_engine(self) -> None:
        self.state.drain()
        await self.engine.stop(self.options.grace)

    def _forget(self, endpoints: Iterable[Endpoint]) -> None:
        gone = list(endpoints)
        self.engine.forget(gone)
        self._asking.forget(gone)

    def _add_local(self, listener: str, *, reflect: bool) -> Callable[[grpc.aio.Server], None]:
        def add(server: grpc.aio.Server) -> None:
            health.add_health(server, self.state, listener)
            if reflect:
                reflection.add_reflection(server, reflection.Reflection(self.state, listener, self._cache))
            if listener != PUBLIC:
                service.add_edge_admin(server, self.state, self.stack.metrics, self.info)

        return add


def edge_tls(options: EdgeOptions) -> Tls:
    """Return the TLS of an edge, its files read. Raises StartError."""
    return Tls({PUBLIC: options.public_tls, INTERNAL: options.internal_tls}, options.upstream_tls)


async def run_edge(options: EdgeOptions, process: Process, place: Place | None = None) -> None:
    """Run an edge, or one worker of one, until `process.stop`: serve, join the registry, drain at the end.

    Raises:
        StartError: an address cannot be listened on, or the access log not be written.

    """
    edge = Edge(options, place=place)
    async with edge.serve(process.stop) as addresses:
        me = Instance(
            service=EDGE_SERVICE,
            instance_id=edge.info.instance_id,
            endpoints=(addresses[INTERNAL if place is None else WORKER],),
            version=mesh.__version__,
            zone=options.zone,
            metadata={
                "engine": edge.engine.name,
                **{name: addresses[name] for name in (PUBLIC, INTERNAL, "admin")},
                **({} if place is None else {"worker": str(place.index)}),
                **({TLS: "on"} if options.internal_tls.enabled else {}),
            },
            grpc_services=(service.NAME,),
        )
        # Left first at the end, so that nobody is sent here any more; then the calls in flight are finished.
        async with _registered(options.control, me):
            # A worker has waited for it already.
            if not (edge.state.directory.cluster_id or (place is None and await edge.synced())):
                _log.warning("no registry at %s yet; serving without, and trying on", options.control)
            settle_memory()
            process.ready({**addresses, "engine": edge.engine.name})
            await process.stop.wait()
            edge.state.drain()


@contextlib.asynccontextmanager
async def _registered(control: str, me: Instance) -> AsyncIterator[None]:
    """Keep an instance in the registry; an edge that the registry does not take serves all the same, and says so."""

    async def keep() -> None:
        try:
            # Nobody is sent here by the registry, so nobody is waited for; connections are told by the engine.
            await Registration(control, me, drain=0).run()
        except MeshError as error:
            _log.warning("this edge is not in the registry: %s", error)

    task = asyncio.create_task(keep())
    try:
        yield
    finally:
        await _ended(task)


@contextlib.asynccontextmanager
async def _running(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        await _ended(task)


async def _ended(task: asyncio.Task[Any]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


def _hook_failed(call: Call, error: BaseException) -> None:
    _log.error("an interceptor failed on call %s", call.correlation_id.decode(), exc_info=error)
