"""One process' part in the mesh: what `mesh.join` gives."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TypedDict, TypeVar, Unpack

import grpc
from prometheus_client import CollectorRegistry

from mesh.errors import UsageError
from mesh.resilience.policy import HedgeOptions
from mesh.sdk.channel import Client, MeshChannel
from mesh.sdk.client_metrics import ClientMetrics
from mesh.sdk.configuration import Configuration, OnChange
from mesh.sdk.discovery import Discovery
from mesh.sdk.logs import LogHandler
from mesh.sdk.membership import SETTLE_SECONDS, Membership
from mesh.sdk.metrics import CallMetrics
from mesh.sdk.options import JoinOptions, is_service
from mesh.sdk.readiness import Check, Readiness
from mesh.sdk.server import Adder, ChannelOptions, Server
from mesh.sdk.serving import Serving
from mesh.sdk.signals import stopping_on_signals
from mesh.sdk.spans import SpanLog
from mesh.sdk.telemetry import telling
from mesh.telemetry.sampling import TracingOptions
from mesh.tls.options import ListenerTls

T = TypeVar("T")

_log = logging.getLogger("mesh")


class JoinKeywords(TypedDict, total=False):
    """What `join` takes; `mesh.sdk.options.JoinOptions` says what each is, and what holds where it is left out."""

    exposure: str
    instance_id: str
    control: str
    listen: str
    advertise: str
    version: str
    zone: str
    environment: str
    weight: int
    warm_up_seconds: float
    labels: dict[str, str]
    ttl_seconds: float
    drain_seconds: float
    grace_seconds: float
    serve_without_control: bool
    state: Path | None
    tls: ListenerTls
    telemetry: bool
    reflection: bool


def join(
    service: str,
    *,
    tracing: TracingOptions | None = None,
    interceptors: Sequence[grpc.aio.ServerInterceptor] = (),
    server_options: ChannelOptions = (),
    **options: Unpack[JoinKeywords],
) -> Mesh:
    """Return the part of `service` in the mesh, for `async with`.

    `interceptors` are those of grpc.aio, and come after the mesh's own; `server_options` are grpc core's. Nothing is
    waited for: what needs the control plane finds it when it is there.

    Raises:
        UsageError: an option makes no sense.

    """
    return Mesh(JoinOptions(service, **options), tracing or TracingOptions(), interceptors, server_options)


class Mesh:
    """One process in the mesh. Made by `join`."""

    def __init__(
        self,
        options: JoinOptions,
        tracing: TracingOptions,
        interceptors: Sequence[grpc.aio.ServerInterceptor],
        server_options: ChannelOptions,
    ) -> None:
        self.options = options
        # Whether calls are wanted: `m.ready.clear("loading")`, `m.ready.set()`.
        self.ready = Readiness()
        # All that is told of this process; an application may register more.
        self.metrics = CollectorRegistry()
        self._spans = SpanLog(tracing, options.service, options.instance_id, options.version)
        self._interceptors = interceptors
        self._server_options = server_options
        self._server: Server | None = None
        self._membership: Membership | None = None
        self._registering: asyncio.Task[None] | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._stop = asyncio.Event()
        self._address = ""
        self._port = 0
        self._discovery: Discovery | None = None
        self._called = CallMetrics("client", ("rpc_method", "peer_service"))
        self._configurations: list[Configuration[Any]] = []
        # For the logs of this process; `m.logs.structlog_processor` is for structlog where it does not use logging.
        self.logs = LogHandler(options.service, options.instance_id, options.version)
        self._open = contextlib.AsyncExitStack()

    @property
    def service(self) -> str:
        return self.options.service

    @property
    def instance_id(self) -> str:
        return self.options.instance_id

    @property
    def address(self) -> str:
        """Where others reach it, "HOST:PORT"; "" before it serves."""
        return self._address

    @property
    def port(self) -> int:
        """The port that it listens on, whatever others use to reach it; 0 before it serves."""
        return self._port

    async def __aenter__(self) -> Self:
        served = CallMetrics("server", ("rpc_method",))
        self.metrics.register(served)
        self.metrics.register(self._called)
        self._discovery = Discovery(self.options)
        self.metrics.register(ClientMetrics(self._discovery))
        if self.options.telemetry:
            await self._open.enter_async_context(telling(self.options, self._spans, self.logs, self.metrics))
        serving = Serving(served, self._spans)
        self._server = Server(self.options, (serving, *self._interceptors), self._server_options)
        return self

    async def __aexit__(self, *_: object) -> None:
        try:
            await self.leave()
            await self._end_tasks()
            if self._discovery is not None:
                await self._discovery.close()
        finally:
            await self._open.aclose()

    def add(self, adder: Adder, servicer: Any, *, announced: bool = True) -> None:
        """Serve a servicer: `m.add(add_OrdersServicer_to_server, Orders())`.

        One that is not `announced` is for those who know this instance's address: no edge routes to it.

        Raises:
            UsageError: a method of it is not async, or there is one for this service already.

        """
        self._opened().add(adder, servicer, announced=announced)

    def channel(self, service: str, *, hedge: Mapping[str, HedgeOptions] | None = None) -> MeshChannel:
        """Return a channel to a service by its name, for generated stubs.

        Its calls go to the service's instances directly, under the policies that the edge has for it (`mesh.edge` in
        Config), and carry what the call under way is about: correlation id, trace and deadline. `hedge` names methods,
        "pkg.Service/Method", of which a second attempt may be made beside the first: only such as may be carried out
        twice.

        Raises:
            UsageError: that is no name of a service.

        """
        self._opened()
        if not is_service(service):
            raise UsageError(f"channel: '{service}' is no name of a service: small letters, digits and -")
        assert self._discovery is not None
        client = Client(self._spans, self._called, time.monotonic, self.options.control)
        return MeshChannel(client, self._discovery.upstream(service), hedge or {})

    def config(self, kind: type[T], application: str = "", on_change: OnChange[T] | None = None) -> Configuration[T]:
        """Return the configuration of an application, that of this service if none is named, as a dataclass.

        It is followed from now on: `settings = m.config(Settings)`, `await settings.ready()`, `settings.current`. What
        cannot be read as `kind`, and what `on_change` raises, rejects a release, which is reported with the reason;
        the settings before stay in force.
        """
        self._opened()
        made = Configuration(self.options, application or self.service, kind, self._lease, on_change)
        self._configurations.append(made)
        self._run(made.run())
        return made

    async def serve(self, ready: Check | None = None) -> None:
        """Serve until SIGTERM, SIGINT or `stop`; then leave without losing a call.

        Raises what `start` does, and RefusedError or ReplacedError when the registry does not take this instance or
        gave its place to another one of the same id.
        """
        with stopping_on_signals(self._stop):
            await self.start(ready)
            assert self._registering is not None
            asked = asyncio.ensure_future(self._stop.wait())
            try:
                await asyncio.wait((asked, self._registering), return_when=asyncio.FIRST_COMPLETED)
            finally:
                asked.cancel()
                refused = self._registering
                await self.leave()
            if refused.done() and not refused.cancelled():
                refused.result()

    async def start(self, ready: Check | None = None) -> None:
        """Take calls, and register. Calls are wanted when `m.ready` is set and `ready`, asked again and again, says so.

        Raises:
            StartError: the address cannot be had.

        """
        server = self._opened()
        if ready is not None:
            self.ready.doubt()
        self._port = await server.start()
        self._address = self.options.reached_at(self._port)
        self._membership = Membership(self.options, self._address, server.announced, self.ready)
        self._registering = asyncio.create_task(self._membership.run())
        # Whoever does not wait for it, by `serve`, hears of it in the log.
        self._registering.add_done_callback(lambda task: task.cancelled() or task.exception())
        self._run(self._membership.tell(server))
        self._run(server.follow_files())
        self._run(self._refresh_with_lease())
        if ready is not None:
            self._run(self.ready.keep_asking(ready))
        _log.info("%s serves at %s as %s", self.service, self._address, self.instance_id)

    async def registered(self) -> None:
        """Wait until the registry has taken this instance for the first time; to be called after `start`."""
        assert self._membership is not None
        await self._membership.registered()

    def stop(self) -> None:
        """Have `serve` end."""
        self._stop.set()

    async def leave(self) -> None:
        """Leave the registry, wait until callers know it, and finish the calls under way."""
        registering, self._registering = self._registering, None
        if registering is None:
            return
        was_known = self._membership is not None and self._membership.lease_id != 0
        registering.cancel()
        await asyncio.gather(registering, return_exceptions=True)
        if was_known:
            await asyncio.sleep(SETTLE_SECONDS)
        await self._opened().stop(self.options.grace_seconds)

    def _lease(self) -> int:
        return self._membership.lease_id if self._membership is not None else 0

    async def _refresh_with_lease(self) -> None:
        """Ask for configurations anew, with their secrets, once there is a lease."""
        await self.registered()
        for one in self._configurations:
            one.refresh()

    def _opened(self) -> Server:
        if self._server is None:
            raise RuntimeError("write `async with mesh.join(...) as m:` first")
        return self._server

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        """Run something in the background until the end."""
        self._tasks.append(asyncio.create_task(work))

    async def _end_tasks(self) -> None:
        for task in self._tasks:
            task.cancel()
        for outcome in await asyncio.gather(*self._tasks, return_exceptions=True):
            if isinstance(outcome, Exception):
                _log.error("a part of the mesh's client ended", exc_info=outcome)
        self._tasks.clear()
