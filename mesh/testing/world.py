"""A whole mesh in one process: services, their registry and configuration, what goes wrong, and what was seen."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import inspect
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Self

import grpc

import mesh
from mesh.sdk.mesh import Mesh as Joined
from mesh.telemetry.record import Record
from mesh.telemetry.spans import SpanRecord
from mesh.testing.faults import Fault, FaultInterceptor, Faults, SeenCall
from mesh.testing.memory.control import MemoryControl
from mesh.testing.relay import Relay

# How long anything that is waited for may take: generous, since the machine may be busy.
PATIENCE = 30.0
# Leases of instances under test: they renew each second.
TTL_SECONDS = 3.0

# Adds servicers to a service that joins: `lambda m: m.add(add_OrdersServicer_to_server, Orders(...))`.
Build = Callable[[Joined], Awaitable[None] | None]


# Whose code runs; empty is the test's own.
_instance: contextvars.ContextVar[str] = contextvars.ContextVar("mesh_testing_instance", default="")


class _OfInstance(logging.Filter):
    """Takes what the code of one instance logs."""

    def __init__(self, instance_id: str) -> None:
        super().__init__()
        self._instance_id = instance_id

    def filter(self, record: logging.LogRecord) -> bool:
        return _instance.get() == self._instance_id


class Instance:
    """One instance of a service under test. Made by `Mesh.run`."""

    def __init__(self, world: Mesh, joined: Joined, wire: Relay, control: Relay) -> None:
        self._world = world
        self._wire = wire
        self._control = control
        # Its part in the mesh, as `mesh.join` gave it.
        self.mesh = joined
        self.service = joined.service
        self.instance_id = joined.instance_id
        self._stop = asyncio.Event()

    @property
    def address(self) -> str:
        """Where others reach it."""
        return self._wire.address

    async def kill(self, *, noticed: bool = True) -> None:
        """Have it gone without a word: its connections are reset, and so are those that come.

        With `noticed` its lease ends at once, and everybody has heard of it; else callers must find out themselves.
        What it holds in memory it still holds when it is revived: it is cut off, not started anew.
        """
        self._control.cut()
        self._wire.cut()
        if noticed:
            await self._world.control.registry.end_leases_of(self.service, self.instance_id)
            await self._world.settled()

    def freeze(self) -> None:
        """Let no byte in or out, and refuse nothing: as a process that is stopped, or behind a broken network."""
        self._control.stall()
        self._wire.stall()

    async def revive(self) -> None:
        """Have it back, registered and known to everybody."""
        self._control.mend()
        self._wire.mend()
        await self._world.known(self.service, self.instance_id)

    def drop_connections(self) -> None:
        """Reset its connections; new ones are taken."""
        self._wire.reset()

    async def stop(self) -> None:
        """Have it leave as on SIGTERM: deregistered, and its calls finished."""
        await self._world.stop(self)


class Mesh:
    """Use as `async with Mesh() as world:`, or the fixture `service_mesh`.

    All is in this event loop, on loopback: the very `mesh.join`, channels and policies that run in production, the
    control services in memory (`mesh.testing.memory` says what those have not).
    """

    def __init__(self, **options: Any) -> None:
        """Have `options` be those of `mesh.join` for each service, unless `run` says otherwise."""
        self._options = options
        self._stack = contextlib.AsyncExitStack()
        self._lives: dict[Instance, asyncio.Task[None]] = {}
        self._client: Joined | None = None
        self.control = MemoryControl()
        self.faults = Faults()

    async def __aenter__(self) -> Self:
        await self._stack.enter_async_context(self.control)
        options = {"control": self.control.address, **self._options}
        self._client = await self._stack.enter_async_context(mesh.join("test", **options))
        self._client.logs.addFilter(_OfInstance(""))
        return self

    async def __aexit__(self, *_: object) -> None:
        for instance in list(self._lives):
            # One that is cut off could not say that it leaves.
            instance._control.mend()  # noqa: SLF001 - they are one piece
            instance._wire.mend()  # noqa: SLF001
        outcomes = await asyncio.gather(*map(self.stop, list(self._lives)), return_exceptions=True)
        await self._stack.aclose()
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                raise outcome

    async def run(self, service: str, build: Build, **options: Any) -> Instance:
        """Run an instance of a service, and return when everybody can call it.

        `build` is given the instance's part in the mesh, and adds servicers to it; `options` are those of `mesh.join`.
        """
        started: asyncio.Future[Instance] = asyncio.get_running_loop().create_future()
        life = asyncio.create_task(self._live(service, build, options, started), context=contextvars.Context())
        await asyncio.wait((started, life), return_when=asyncio.FIRST_COMPLETED)
        if not started.done():
            await life
        instance = started.result()
        self._lives[instance] = life
        await self.settled()
        return instance

    async def stop(self, instance: Instance) -> None:
        """Have an instance leave."""
        life = self._lives.pop(instance, None)
        if life is not None:
            instance._stop.set()  # noqa: SLF001
            await life

    def channel(self, service: str, **options: Any) -> grpc.aio.Channel:
        """Return a channel of a service named "test", for stubs: it is not closed by who asked for it."""
        assert self._client is not None, "write `async with Mesh() as world:` first"
        return self._client.channel(service, **options)

    # What goes wrong. Each returns its fault, to heal, or for `with`.

    def fail(
        self, service: str = "", code: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE, details: str = "", **where: Any
    ) -> Fault:
        """Have calls fail before their handlers. `where`: method, instance, times, share (see `Fault`)."""
        return self.faults.add(Fault(service, code=code, details=details, **where))

    def delay(self, service: str, seconds: float, **where: Any) -> Fault:
        """Have calls wait before their handlers."""
        return self.faults.add(Fault(service, delay_seconds=seconds, **where))

    def hang(self, service: str = "", **where: Any) -> Fault:
        """Have calls never be answered."""
        return self.faults.add(Fault(service, hangs=True, **where))

    def drop(self, service: str = "", **where: Any) -> Fault:
        """Have the connections of the instance that gets a call be reset."""
        return self.faults.add(Fault(service, drops=True, **where))

    def pass_time(self, seconds: float) -> None:
        """Let so much time pass for the circuit breakers and the ejections of every caller.

        Deadlines, delays, leases and rate limits go by the machine's clock, always.
        """
        members = [self._client, *(instance.mesh for instance in self._lives)]
        for member in members:
            discovery = member._discovery if member is not None else None  # noqa: SLF001 - they are one piece
            for upstream in discovery.upstreams() if discovery is not None else ():
                for endpoint in upstream.endpoints:
                    endpoint.breaker.age(seconds)
                    if endpoint.outlier is not None:
                        endpoint.outlier.ejected_until -= seconds

    async def configure(self, application: str, content: Mapping[str, Any]) -> dict[str, str]:
        """Release a configuration, and wait until everybody who follows `application` has put it into force.

        Returns by instance why it was rejected; "" is that it was not. "mesh.edge" has the policies of calls.
        """
        release = await self.control.config.publish(application, content)
        async with asyncio.timeout(PATIENCE):
            return await self.control.config.reported(application, release)

    # What was seen.

    def calls(self, service: str = "", method: str = "") -> list[SeenCall]:
        """Return the calls that reached instances, in order; a method by its name or its end, as in `Fault`."""
        return [
            call for call in self.faults.seen if Fault(service, method=method).strikes(call.service, "", call.method)
        ]

    async def called(self, service: str = "", method: str = "", *, times: int = 1) -> list[SeenCall]:
        """Wait until so many such calls have ended, and return them."""

        def ended() -> list[SeenCall]:
            return [call for call in self.calls(service, method) if call.code is not None]

        async with asyncio.timeout(PATIENCE):
            await self.faults.until(lambda: len(ended()) >= times)
        return ended()

    async def spans(self, correlation_id: str = "", *, service: str = "", at_least: int = 1) -> list[SpanRecord]:
        """Wait until so many spans have come, and return those of a conversation and a service."""

        def found() -> list[SpanRecord]:
            return [
                span
                for span in self.control.traces.spans
                if correlation_id in ("", span.correlation_id) and service in ("", span.service)
            ]

        async with asyncio.timeout(PATIENCE):
            await self.control.traces.pushed.until(lambda: len(found()) >= at_least)
        return found()

    async def logs(self, correlation_id: str = "", *, service: str = "", at_least: int = 1) -> list[Record]:
        """Wait until so many log records have come, and return those of a conversation and a service."""

        def found() -> list[Record]:
            return [
                record
                for record in self.control.logs.records
                if correlation_id in ("", record.correlation_id) and service in ("", record.service)
            ]

        async with asyncio.timeout(PATIENCE):
            await self.control.logs.pushed.until(lambda: len(found()) >= at_least)
        return found()

    async def known(self, service: str, instance_id: str) -> None:
        """Wait until an instance is registered, and everybody has heard of it."""
        registry = self.control.registry

        def there() -> bool:
            return any((one.service, one.instance_id) == (service, instance_id) for one in registry.instances)

        async with asyncio.timeout(PATIENCE):
            await registry.until(there)
        await self.settled()

    async def settled(self) -> None:
        """Wait until everybody has put into force what the registry says now."""
        async with asyncio.timeout(PATIENCE):
            await self.control.registry.settled()

    async def _live(
        self, service: str, build: Build, options: Mapping[str, Any], started: asyncio.Future[Instance]
    ) -> None:
        """Run one instance from its start to its end, in a context of its own."""
        async with Relay() as wire, Relay() as control:
            control.lead_to(self.control.address)
            number = sum(one.service == service for one in self._lives) + 1
            merged: dict[str, Any] = {
                "instance_id": f"{service}-{number}",
                "ttl_seconds": TTL_SECONDS,
                **self._options,
                **options,
                "control": control.address,
                "advertise": wire.address,
            }
            given = merged.pop("interceptors", ())
            faults = FaultInterceptor(self.faults, service, merged["instance_id"], wire.reset)
            _instance.set(merged["instance_id"])
            async with mesh.join(service, interceptors=(faults, *given), **merged) as joined:
                # All services of the process have a handler on the root logger.
                joined.logs.addFilter(_OfInstance(joined.instance_id))
                made = build(joined)
                if inspect.isawaitable(made):
                    await made
                await joined.start()
                wire.lead_to(f"127.0.0.1:{joined.port}")
                async with asyncio.timeout(PATIENCE):
                    await joined.registered()
                instance = Instance(self, joined, wire, control)
                started.set_result(instance)
                await instance._stop.wait()  # noqa: SLF001
