"""The wire engine: listeners, pools, and what all calls share."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from typing import Any

from mesh.tls.identity import Identity
from mesh.tls.options import UpstreamTls
from proxy.call.dispatch import Dispatcher
from proxy.call.limits import Limits
from proxy.engines.engine import Listener
from proxy.engines.options import PoolOptions, Protection
from proxy.engines.wire import endings
from proxy.engines.wire.again import Alarms
from proxy.engines.wire.door import Door
from proxy.engines.wire.exchange import Exchange
from proxy.engines.wire.h2 import Http2Options, Library, load
from proxy.engines.wire.local import LocalServer
from proxy.engines.wire.pool import Pool
from proxy.engines.wire.session import Session, session_handlers
from proxy.engines.wire.transport import Turns
from proxy.engines.wire.upstream import upstream_handlers
from proxy.engines.wire.wheel import TICK_SECONDS, Wheel
from proxy.upstream.endpoint import Endpoint
from proxy.upstream.tls import server_name

_SWEEP_SECONDS = 1.0
# How long the end waits for TLS handshakes under way, so that their clients hear of it.
_TLS_BEGIN_SECONDS = 0.5
# How often an engine that stops ends what would go on for ever.
_LOCAL_SECONDS = 0.1


class WireEngine:
    """Forwards calls as HTTP/2 streams."""

    name = "wire"

    def __init__(
        self,
        dispatcher: Dispatcher,
        *,
        library: Library | None = None,
        protection: Protection | None = None,
        pool: PoolOptions | None = None,
        upstream_tls: Identity | None = None,
    ) -> None:
        """Make an engine.

        Raises:
            UsageError: the HTTP/2 library cannot be imported.

        """
        self.dispatcher = dispatcher
        self.library = library or load()
        self.protection = protection or Protection()
        limits = dispatcher.limits
        self.max_message_bytes = limits.max_message_bytes
        self.max_header_bytes = limits.max_header_bytes
        self.http2 = Http2Options(
            max_streams=limits.max_streams_per_connection,
            max_header_list_bytes=max(256 * 1024, 16 * limits.max_header_bytes),
        )
        self.session_handlers = session_handlers(self.library)
        self.upstream_handlers = upstream_handlers(self.library)
        self.deadlines: Wheel[Exchange] = Wheel()
        self.local: dict[str, Pool] = {}
        self.upstream_tls = upstream_tls or Identity("upstream", UpstreamTls())
        self._pool_options = pool or PoolOptions()
        self.pools: dict[Endpoint, Pool] = {}
        self._sessions: set[Session] = set()
        self._emptied = asyncio.Event()
        # Copies of requests under way.
        self.copies: set[Exchange] = set()
        # No further connection is wanted.
        self.stopping = False
        self._doors: list[Door] = []
        self._local_servers: list[LocalServer] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self.deadline_timer: asyncio.TimerHandle | None = None
        self._sweep_timer: asyncio.TimerHandle | None = None

    async def start(self, listeners: Sequence[Listener]) -> Mapping[str, str]:
        """See Engine.start."""
        self.loop = asyncio.get_running_loop()
        self.turns = Turns(self.loop, self._alone)
        self.alarms = Alarms(self.loop, self.dispatcher.now)
        addresses = {}
        for listener in listeners:
            local = LocalServer(listener, self.dispatcher.limits)
            self._local_servers.append(local)
            await local.start()
            self.local[listener.name] = Pool(self, local.address, self._pool_options)
            door = Door(self, listener)
            addresses[listener.name] = await door.open()
            self._doors.append(door)
        self._sweep_timer = self.loop.call_later(_SWEEP_SECONDS, self._sweep)
        return addresses

    def follow(self, limits: Limits, protection: Protection) -> Sequence[str]:
        """See Engine.follow."""
        self.max_message_bytes = limits.max_message_bytes
        self.max_header_bytes = limits.max_header_bytes
        self.protection = protection
        return ()

    def forget(self, endpoints: Iterable[Endpoint]) -> None:
        """See Engine.forget."""
        for endpoint in endpoints:
            pool = self.pools.pop(endpoint, None)
            if pool is not None:
                pool.forget()

    async def stop(self, grace: float) -> None:
        """See Engine.stop."""
        self.stopping = True
        for door in self._doors:
            door.close()
        # What was accepted in this turn begins in the next one, and drains at once; TLS takes some turns to begin.
        await asyncio.sleep(min(_TLS_BEGIN_SECONDS, grace) if any(door.tls for door in self._doors) else 0)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace):
                await self._drained()
        for session in tuple(self._sessions):
            session.end()
        for copy in tuple(self.copies):
            copy.finish()
        for pool in (*self.pools.values(), *self.local.values()):
            pool.close()
        self.alarms.stop()
        for timer in (self._sweep_timer, self.deadline_timer):
            if timer is not None:
                timer.cancel()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for local in self._local_servers:
            await local.stop()
        self._doors.clear()
        self._local_servers.clear()

    async def _drained(self) -> None:
        """Have every client go, and wait until the last one has."""
        for session in tuple(self._sessions):
            if session.greeted:
                session.drain()
            else:
                session.drain_newborn()
        while self._sessions:
            for session in tuple(self._sessions):
                session.end_local()
            self._emptied.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._emptied.wait(), _LOCAL_SECONDS)

    # What sessions and calls ask of it.

    def pool(self, endpoint: Endpoint) -> Pool:
        """Return the connections of an endpoint."""
        pool = self.pools.get(endpoint)
        if pool is None:
            pool = self.pools[endpoint] = Pool(self, endpoint.address, self._pool_options, server_name(endpoint))
        return pool

    def own(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run `work` as a task that ends with the engine at the latest."""
        task = self.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def watch_deadlines(self) -> None:
        """See to it that deadlines are looked at."""
        self.deadline_timer = self.loop.call_later(TICK_SECONDS, self._expire)

    def welcome(self, session: Session) -> bool:
        """Take a new client connection; returns whether there is room for it."""
        if len(self._sessions) >= self.protection.max_connections:
            return False
        self._sessions.add(session)
        return True

    def farewell(self, session: Session) -> None:
        """Forget a client connection."""
        self._sessions.discard(session)
        if not self._sessions:
            self._emptied.set()

    def _alone(self) -> bool:
        return self.dispatcher.in_flight <= 1

    def _expire(self) -> None:
        self.deadline_timer = None
        for exchange in self.deadlines.expire(self.dispatcher.now()):
            if not exchange.done:
                endings.expire(exchange)
        if self.deadlines:
            self.watch_deadlines()

    def _sweep(self) -> None:
        now, protection = self.dispatcher.now(), self.protection
        for session in tuple(self._sessions):
            session.conduct.forgive()
            if not session.greeted and now - session.born_at > protection.handshake_seconds:
                session.abort()
            elif _over(self.dispatcher.limits.max_connection_age_seconds, now - session.born_at) or (
                not session.streams and now - session.idle_since > _patience(protection, session)
            ):
                session.drain()
        for pool in (*self.pools.values(), *self.local.values()):
            pool.sweep(now)
        self._sweep_timer = self.loop.call_later(_SWEEP_SECONDS, self._sweep)


def _over(limit: float | None, seconds: float) -> bool:
    return limit is not None and seconds > limit


def _patience(protection: Protection, session: Session) -> float:
    """Return how long a client may be without a call."""
    if session.idle_since > session.born_at:
        return protection.idle_seconds
    return min(protection.first_call_seconds, protection.idle_seconds)
