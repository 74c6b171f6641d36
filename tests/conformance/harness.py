"""An edge around one engine, for tests: real sockets, a registry made by hand, books that are checked at the end."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import gc
import logging
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any

import grpc

from mesh.clock import Clock, SystemClock
from mesh.discovery.model import Directory, Instance, Service
from mesh.resilience.breaker import BreakerOptions
from mesh.resilience.policy import RoutePolicy
from mesh.tls.identity import Tls
from proxy.admin import health
from proxy.admin.state import MeshState
from proxy.call.call import Call
from proxy.call.dispatch import Dispatcher
from proxy.call.limits import Limits
from proxy.call.reason import Reason
from proxy.engines.aio.engine import AioEngine
from proxy.engines.engine import INTERNAL, PUBLIC, Engine, Listener
from proxy.engines.options import Protection
from proxy.engines.wire.engine import WireEngine
from proxy.policy.document import read
from proxy.stack import Stack, StackOptions
from proxy.upstream.endpoint import Endpoint
from proxy.upstream.plan import Plans
from tests.conformance.h2_peer import HANG_SECONDS

# Every engine, in one place.
ENGINES = ("aio", "wire")

# The gRPC service that tests call; registered PUBLIC by default.
ECHO = "conform.v1.Echo"
METHOD = f"/{ECHO}/Call"


def make_engine(name: str, dispatcher: Dispatcher, tls: Tls | None = None) -> Engine:
    """Return a new engine by its name in ENGINES."""
    upstream = tls.upstream if tls is not None else None
    if name == "aio":
        return AioEngine(dispatcher, upstream_tls=upstream)
    return WireEngine(dispatcher, upstream_tls=upstream)


# What grpc.aio logs of clients: one that left while it was told how its call ended, one that sent malformed metadata.
_GRPC_SAYS = ("ExecuteBatchError raised in core by servicer method", "Invalid encoding on")


class Books(Dispatcher):
    """A dispatcher that counts what an engine begins and ends."""

    def begin(self, *args: Any) -> Call:
        self.begun.append(call := super().begin(*args))
        self.quiet.clear()
        return call

    def next_endpoint(self, call: Call) -> Endpoint:
        endpoint = super().next_endpoint(call)
        self.attempts.append((call, endpoint))
        return endpoint

    def end_attempt(self, call: Call, status: int, message: str = "", reason: Reason | None = None) -> None:
        assert call.endpoint is not None
        self.attempts_ended.append((call, call.endpoint))
        super().end_attempt(call, status, message, reason)

    def end(self, call: Call) -> None:
        super().end(call)
        if not self.in_flight:
            self.quiet.set()

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.begun: list[Call] = []
        self.attempts: list[tuple[Call, Endpoint]] = []
        self.attempts_ended: list[tuple[Call, Endpoint]] = []
        self.quiet = asyncio.Event()
        self.quiet.set()


@dataclass
class EdgeUnderTest:
    """A running edge."""

    engine: Engine
    books: Books
    stack: Stack
    state: MeshState
    addresses: dict[str, str]
    hook_errors: list[BaseException] = field(default_factory=list)
    limits: Limits = field(default_factory=Limits)
    _records: list[Call] = field(default_factory=list)
    _services: dict[str, Service] = field(default_factory=dict)
    _instances: dict[tuple[str, str], Instance] = field(default_factory=dict)

    @property
    def public(self) -> str:
        return self.addresses[PUBLIC]

    @property
    def internal(self) -> str:
        return self.addresses[INTERNAL]

    @property
    def endpoints(self) -> list[Endpoint]:
        return self.state.pool.all()

    def register(
        self, *addresses: str, service: str = "echo", grpc_service: str = ECHO, public: bool = True, **fields: Any
    ) -> list[Endpoint]:
        """Register an instance per address and return their endpoints; without addresses only the service."""
        self._services[service] = Service(service, (grpc_service,), public=public)
        for address in addresses:
            one = Instance(service, address, (address,), grpc_services=(grpc_service,), public=public, **fields)
            self._instances[one.key] = one
        self._apply()
        return [one for one in self.endpoints if one.address in addresses]

    def configure(self, **document: Any) -> None:
        """Take a document of the application `mesh.edge` into force, as a release would."""
        own = self.limits
        found = read(document, own)
        limits = dataclasses.replace(own, **found.limits)
        self.books.limits = limits
        self.engine.follow(limits, dataclasses.replace(Protection(), **found.protection))
        self.state.configure(found, limits)

    def deregister(self, address: str) -> None:
        """Take the instances at an address out of the registry."""
        self._instances = {key: one for key, one in self._instances.items() if address not in one.endpoints}
        self._apply()

    def records(self) -> list[Call]:
        """Return the calls in the access log, all since the start."""
        log = self.stack.access_log
        assert log is not None
        self._records += [call for _, call in log.take()]
        return self._records

    async def settled(self) -> list[Call]:
        """Wait until no call is in flight, check the books, and return the calls that the access log noted."""
        async with asyncio.timeout(HANG_SECONDS):
            await self.books.quiet.wait()
        self.check()
        return self.records()

    async def call_record(self) -> Call:
        """Return the record of the only call so far."""
        (record,) = await self.settled()
        return record

    def check(self) -> None:
        """Check that the books of a quiet edge are right."""
        books, records = self.books, self.records()
        assert books.in_flight == 0
        assert [one for one in self.endpoints if one.in_flight] == []
        assert sorted(map(id, records)) == sorted(map(id, books.begun)), "one record for each call"
        assert [one for one in records if one.status < 0] == [], "every status is known"
        assert sorted(map(id, _calls(books.attempts))) == sorted(map(id, _calls(books.attempts_ended)))
        assert self.stack.metrics.calls_in_flight == 0
        assert self.stack.metrics.calls_total == len(records)
        assert self.hook_errors == []

    def _apply(self) -> None:
        revision = self.state.directory.revision + 1
        self.state.update(Directory("test", revision, dict(self._services), dict(self._instances)), self.engine.forget)


@contextlib.asynccontextmanager
async def run_edge(
    engine: str,
    *,
    clock: Clock | None = None,
    limits: Limits | None = None,
    stack: StackOptions | None = None,
    breaker: BreakerOptions | None = None,
    tls: Tls | None = None,
    policy: RoutePolicy | None = None,
) -> AsyncIterator[EdgeUnderTest]:
    """Run an edge while the context is open; at its end no call, task or error of it may be left."""
    clock = clock or SystemClock()
    stack = stack or StackOptions(breaker=breaker or BreakerOptions(minimum_calls=1000))
    hook_errors: list[BaseException] = []
    made = Stack(clock, stack, lambda _call, error: hook_errors.append(error))
    state = MeshState(stack.breaker, {PUBLIC: (health.NAME,), INTERNAL: (health.NAME,)}, plans=Plans(made.plan))
    state.follow(lambda _service, _method: policy)
    books = Books(clock, limits or Limits(), made.routed, made.local)
    books.tables = state.tables
    with _no_errors():
        before = asyncio.all_tasks()
        # Tests put makers of their own in its place, which know nothing of TLS.
        running = make_engine(engine, books) if tls is None else make_engine(engine, books, tls)
        addresses = await running.start([_listener(name, state, tls) for name in (PUBLIC, INTERNAL)])
        edge = EdgeUnderTest(running, books, made, state, dict(addresses), hook_errors, books.limits)
        try:
            yield edge
        finally:
            await running.stop(0)
        await edge.settled()
        await _no_tasks(before)


@contextlib.asynccontextmanager
async def connect(
    address: str, *options: tuple[str, Any], credentials: grpc.ChannelCredentials | None = None
) -> AsyncIterator[grpc.aio.Channel]:
    """Open a grpc.aio channel with a connection of its own and no limits."""
    unlimited = (
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.max_receive_message_length", -1),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_metadata_size", 2**20),
        ("grpc.absolute_max_metadata_size", 2**20),
    )
    if credentials is not None:
        opened = grpc.aio.secure_channel(address, credentials, options=(*unlimited, *options))
    else:
        opened = grpc.aio.insecure_channel(address, options=(*unlimited, *options))
    async with opened as channel:
        yield channel


def unary(channel: grpc.aio.Channel, method: str = METHOD) -> grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]:
    """Return a callable of bytes to bytes."""
    callable_: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(method)
    return callable_


def stream(channel: grpc.aio.Channel, method: str = METHOD) -> grpc.aio.StreamStreamMultiCallable[bytes, bytes]:
    """Return a callable of streams of bytes to streams of bytes."""
    callable_: grpc.aio.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(method)
    return callable_


def _listener(name: str, state: MeshState, tls: Tls | None) -> Listener:
    identity = tls.listeners.get(name) if tls is not None else None
    return Listener(name, "127.0.0.1:0", lambda server: health.add_health(server, state, name), tls=identity)


def _calls(attempts: list[tuple[Call, Endpoint]]) -> list[Call]:
    return [call for call, _ in attempts]


async def _no_tasks(before: set[asyncio.Task[Any]]) -> None:
    """Check that the tasks of the edge are gone; cancelled ones get the turns that they need to end."""
    for _ in range(100):
        left = {task for task in asyncio.all_tasks() - before if not _is_foreign(task)}
        if not left:
            return
        await asyncio.sleep(0.01)
    # By name only: printing a task of grpc.aio can crash the interpreter.
    raise AssertionError(
        f"leaked tasks: {[getattr(task.get_coro(), '__qualname__', task.get_name()) for task in left]}"
    )


def _is_foreign(task: asyncio.Task[Any]) -> bool:
    # What an upstream's grpc.aio server waits with for its next call.
    return task is asyncio.current_task() or getattr(task.get_coro(), "__qualname__", "").startswith("AioServer.")


@contextlib.contextmanager
def _no_errors() -> Iterator[None]:
    """Check that nothing was logged as an error, and no error of a task was lost."""
    errors: list[str] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if not record.getMessage().startswith(_GRPC_SAYS):
                errors.append(self.format(record))

    handler = Handler(logging.ERROR)
    logging.getLogger().addHandler(handler)
    try:
        yield
        gc.collect()  # an error of a task that nobody asked for is told when the task is collected
    finally:
        logging.getLogger().removeHandler(handler)
    assert errors == [], "\n".join(errors)
