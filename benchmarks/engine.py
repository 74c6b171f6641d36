"""What a unary call costs in the wire engine's own code, in one process and without a socket.

python -m benchmarks.engine [--connections 4] [--streams 16] [--rounds 60] [--tracing] [--profile]

A client and three endpoints speak HTTP/2 by the same library; only the time between the bytes that the engine is given
and the bytes that it gives back counts. The least of the rounds is little disturbed by what else the machine does, so
that a change of a few tenths of a microsecond shows. What the kernel and the event loop cost is not in it.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import os
import pstats
import statistics
import sys
from collections.abc import Sequence
from time import perf_counter
from typing import Any

from mesh.clock import SystemClock
from mesh.discovery.model import Directory, Instance, Service
from mesh.resilience.breaker import BreakerOptions
from mesh.telemetry.sampling import TracingOptions
from proxy.admin.state import MeshState
from proxy.call.dispatch import Dispatcher
from proxy.call.limits import Limits
from proxy.engines.wire.engine import WireEngine
from proxy.engines.wire.h2 import Http2Options
from proxy.engines.wire.session import Session
from proxy.engines.wire.transport import Connection, Turns
from proxy.engines.wire.upstream import Upstream
from proxy.stack import Stack, StackOptions, ignore_errors

_PATH = b"/bench.v1.Bench/Call"
_REQUEST = b"\0\0\0\0\x10" + b"q" * 16
_REPLY = b"\0\0\0\0\x20" + b"a" * 32


class _Wire(asyncio.Transport):
    """A transport whose bytes stay here."""

    def __init__(self) -> None:
        super().__init__()
        self.out: list[bytes] = []

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        # A context keeps the engine from writing to a file descriptor.
        return {"sslcontext": True, "peername": ("127.0.0.1", 4711)}.get(name, default)

    def write(self, data: Any) -> None:
        self.out.append(data)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...

    def get_write_buffer_size(self) -> int:
        return 0

    def take(self) -> bytes:
        out, self.out[:] = b"".join(self.out), []
        return out


class _Endpoint:
    """The far side of a connection to an endpoint."""

    def __init__(self, engine: WireEngine, upstream: Upstream) -> None:
        self.library = engine.library
        self.h2 = engine.library.server(engine.http2)
        self.upstream = upstream
        self.wire = _Wire()
        upstream.connection_made(self.wire)

    def answer(self, data: bytes) -> bytes:
        h2 = self.h2
        library: Any = self.library
        h2.receive_data(data)
        events: list[Any] = h2.events()
        for event in events:
            if event.__class__ is library.Data:
                h2.acknowledge_received_data(len(event.data), event.stream_id)
            if event.__class__ in (library.Data, library.Request) and event.end_stream:
                h2.send_response(event.stream_id, [(b":status", b"200"), (b"content-type", b"application/grpc")])
                h2.send_data(event.stream_id, _REPLY)
                h2.send_trailers(event.stream_id, [(b"grpc-status", b"0")])
        return _drained(h2)


def _drained(h2: Any) -> bytes:
    return b"".join(iter(lambda: h2.data_to_send(1 << 20), b""))


class Rig:
    """An engine between clients and endpoints, turn by turn."""

    def __init__(self, connections: int, streams: int, tracing: TracingOptions | None = None) -> None:
        clock = SystemClock()
        self.stack = Stack(clock, StackOptions(tracing=tracing), ignore_errors)
        self.dispatcher = Dispatcher(clock, Limits(), self.stack.routed, self.stack.local)
        state = MeshState(BreakerOptions(), {})
        state.update(_directory(), lambda _gone: None)
        self.dispatcher.tables = state.tables
        self.engine = engine = WireEngine(self.dispatcher)
        engine.loop = asyncio.get_running_loop()
        engine.turns = self.turns = Turns(engine.loop, lambda: False)
        self.streams = streams
        self.ends: list[_Endpoint] = []
        for endpoint in state.pool.all():
            pool = engine.pool(endpoint)
            upstream = Upstream(engine, pool)
            pool.connections.append(upstream)
            self.ends.append(_Endpoint(engine, upstream))
        options = Http2Options()
        self.clients = []
        for _ in range(connections):
            session = Session(engine, "public")
            wire = _Wire()
            session.connection_made(wire)
            self.clients.append((engine.library.client(options), session, wire))
        self.serial = 0
        self.pump()

    def pump(self) -> float:
        """Pass all bytes on until nobody has any left; returns the engine's seconds."""
        spent, busy = 0.0, True
        while busy:
            busy = False
            for h2, session, _wire in self.clients:
                if data := _drained(h2):
                    busy = True
                    spent += _timed(session, data)
            spent += self.flush()
            for end in self.ends:
                if data := end.answer(end.wire.take()):
                    busy = True
                    spent += _timed(end.upstream, data)
            spent += self.flush()
            for h2, _session, wire in self.clients:
                if data := wire.take():
                    busy = True
                    self.read(h2, data)
        return spent

    def read(self, h2: Any, data: bytes) -> None:
        """Take in what a client received."""
        library: Any = self.engine.library
        h2.receive_data(data)
        events: list[Any] = h2.events()
        for event in events:
            if event.__class__ is library.Data:
                h2.acknowledge_received_data(len(event.data), event.stream_id)
            elif event.__class__ is library.Trailers:
                assert (b"grpc-status", b"0") in event.headers
                self.answered += 1

    answered = 0

    def flush(self) -> float:
        began = perf_counter()
        if self.turns.dirty:
            self.turns.run()
        return perf_counter() - began

    def call_all(self) -> tuple[float, int]:
        """Make one call on every stream; returns the engine's seconds and the calls answered."""
        before = self.answered
        for h2, _session, _wire in self.clients:
            for _ in range(self.streams):
                self.serial += 1
                stream_id = h2.send_request(self.headers())
                h2.send_data(stream_id, _REQUEST, end_stream=True)
        spent = self.pump()
        return spent, self.answered - before

    def headers(self) -> list[tuple[bytes, bytes]]:
        serial = self.serial
        return [
            (b":method", b"POST"),
            (b":scheme", b"http"),
            (b":path", _PATH),
            (b":authority", b"bench.example:443"),
            (b"content-type", b"application/grpc"),
            (b"te", b"trailers"),
            (b"user-agent", b"grpc-c/1.60"),
            (b"authorization", b"Bearer " + b"x" * 120),
            (b"traceparent", b"00-%032x-%016x-01" % (serial + 1, serial + 1)),
            (b"grpc-timeout", b"%dm" % (20_000 + serial % 1000)),
            (b"x-user", b"user-%06d" % (serial % 5000)),
            (b"x-session", b"session-%08d" % serial),
        ]


def _timed(connection: Connection, data: bytes) -> float:
    began = perf_counter()
    connection.data_received(data)
    return perf_counter() - began


def _directory() -> Directory:
    instances = [
        Instance("bench", f"bench-{n}", (f"127.0.0.1:{n}",), grpc_services=("bench.v1.Bench",), public=True)
        for n in (1, 2, 3)
    ]
    return Directory(
        "here",
        1,
        {"bench": Service("bench", ("bench.v1.Bench",), public=True)},
        {one.key: one for one in instances},
    )


async def _measure(options: argparse.Namespace) -> None:
    rig = Rig(options.connections, options.streams, TracingOptions() if options.tracing else None)
    turns = max(1, 4000 // (options.connections * options.streams))

    def a_round() -> float:
        seconds, calls = 0.0, 0
        for _ in range(turns):
            spent, answered = rig.call_all()
            seconds += spent
            calls += answered
        log = rig.stack.access_log
        assert log is not None
        taken = len(log.take())
        assert taken == calls == turns * options.connections * options.streams, (taken, calls)
        return seconds / calls * 1e6

    a_round()
    if options.profile:
        profile = cProfile.Profile()
        profile.runcall(a_round)
        pstats.Stats(profile).sort_stats("tottime").print_stats(40)
        return
    rounds = [a_round() for _ in range(options.rounds)]
    rounds.sort()
    print(
        f"{options.connections} x {options.streams}: {rounds[0]:.2f} µs a call at best, "
        f"{rounds[len(rounds) // 4]:.2f} first quartile, {statistics.median(rounds):.2f} median of {len(rounds)} rounds"
    )
    # Leave without the engine's timers and tasks.
    sys.stdout.flush()
    os._exit(0)


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engine")
    parser.add_argument("--connections", type=int, default=4)
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--tracing", action="store_true", help="with telemetry on: every call gets a span")
    parser.add_argument("--profile", action="store_true")
    asyncio.run(_measure(parser.parse_args(arguments)))


if __name__ == "__main__":
    main(sys.argv[1:])
