"""What an engine does to clients that go too far, with limits that tests can reach."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import pytest
from h2.errors import ErrorCodes
from h2.settings import SettingCodes
from hyperframe.frame import DataFrame, PingFrame, SettingsFrame, WindowUpdateFrame

from mesh.resilience import outcome
from mesh.testing.clock import ManualClock
from proxy.call.dispatch import Dispatcher
from proxy.engines.options import PoolOptions, Protection
from proxy.engines.wire.credit import EARLY
from proxy.engines.wire.engine import WireEngine
from tests.conformance import grpc_wire, harness
from tests.conformance.h2_client import H2Client, h2_connect
from tests.conformance.h2_peer import Stream
from tests.conformance.h2_upstream import H2Upstream, echo, hang
from tests.conformance.harness import METHOD, EdgeUnderTest

LIMIT = 50


@contextlib.asynccontextmanager
async def wire_edge(
    monkeypatch: pytest.MonkeyPatch,
    protection: Protection | None = None,
    pool: PoolOptions | None = None,
    clock: ManualClock | None = None,
) -> AsyncIterator[EdgeUnderTest]:
    def make(_name: str, dispatcher: Dispatcher) -> WireEngine:
        return WireEngine(dispatcher, protection=protection, pool=pool)

    monkeypatch.setattr(harness, "make_engine", make)
    async with harness.run_edge("wire", clock=clock) as edge:
        assert isinstance(edge.engine, WireEngine)
        assert edge.engine._sweep_timer is not None
        edge.engine._sweep_timer.cancel()  # a test's second lasts until the test sweeps
        yield edge


def _resets(client: H2Client) -> None:
    for _ in range(LIMIT + 1):
        client.start(grpc_wire.request_headers(METHOD)).reset(ErrorCodes.CANCEL)


def _pings(client: H2Client) -> None:
    for _ in range(LIMIT + 1):
        client.send_frame(PingFrame(0, opaque_data=b"12345678"))


def _settings(client: H2Client) -> None:
    for _ in range(LIMIT + 1):
        client.send_frame(SettingsFrame(0, settings={}))


def _empty_data(client: H2Client) -> None:
    stream = client.start(grpc_wire.request_headers(METHOD))
    for _ in range(LIMIT + 1):
        client.send_frame(DataFrame(stream.id))


def _window_updates(client: H2Client) -> None:
    for _ in range(LIMIT + 1):
        client.send_frame(WindowUpdateFrame(0, window_increment=1))


@pytest.mark.parametrize("attack", [_resets, _pings, _settings, _empty_data, _window_updates])
async def test_attacker_is_cut_off_and_others_go_on(
    monkeypatch: pytest.MonkeyPatch, attack: Callable[[H2Client], None]
) -> None:
    limits = Protection(
        resets_per_second=LIMIT,
        control_frames_per_second=LIMIT,
        empty_frames_per_second=LIMIT,
        window_updates_per_second=LIMIT,
    )
    async with H2Upstream(echo).serve() as upstream, wire_edge(monkeypatch, limits) as edge:
        edge.register(upstream.address)
        async with h2_connect(edge.public) as attacker, h2_connect(edge.public) as other:
            assert (await other.call(METHOD, b"before")).status == 0
            attack(attacker)
            await attacker.until(lambda: attacker.lost)
            assert [frame.error_code for frame in attacker.goaways] == [ErrorCodes.ENHANCE_YOUR_CALM]  # type: ignore[attr-defined]
            assert (await other.call(METHOD, b"after")).status == 0
        await edge.settled()


async def test_connections_over_the_limit_are_closed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async with wire_edge(monkeypatch, Protection(max_connections=1)) as edge, h2_connect(edge.public) as first:
        await first.ping()
        async with h2_connect(edge.public) as second:
            await second.until(lambda: second.lost)
        await first.ping()


async def test_client_that_says_nothing_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = ManualClock()
    async with wire_edge(monkeypatch, Protection(handshake_seconds=5), clock=clock) as edge:
        host, _, port = edge.public.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        assert await reader.readexactly(9)  # the edge's SETTINGS: it has the connection
        clock.advance(6)
        _sweep(edge)
        with contextlib.suppress(ConnectionResetError):
            await reader.read()
        writer.close()


async def test_idle_client_is_drained_and_a_busy_one_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = ManualClock()
    async with (
        H2Upstream(hang).serve() as upstream,
        wire_edge(monkeypatch, Protection(idle_seconds=60), clock=clock) as edge,
    ):
        edge.register(upstream.address)
        async with h2_connect(edge.public) as idle, h2_connect(edge.public) as busy:
            call = busy.start(grpc_wire.request_headers(METHOD))
            await upstream.until_streams(1)
            await idle.ping()
            clock.advance(61)
            _sweep(edge)
            await idle.until(lambda: idle.lost)
            assert {frame.error_code for frame in idle.goaways} == {ErrorCodes.NO_ERROR}  # type: ignore[attr-defined]
            await busy.ping()
            assert busy.goaways == []
            call.reset(ErrorCodes.CANCEL)
            await edge.settled()


async def test_idle_connection_to_an_endpoint_is_closed_and_opened_again(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = ManualClock()
    async with (
        H2Upstream(echo).serve() as upstream,
        wire_edge(monkeypatch, pool=PoolOptions(idle_seconds=60), clock=clock) as edge,
    ):
        edge.register(upstream.address)
        async with h2_connect(edge.public) as client:
            assert (await client.call(METHOD, b"")).status == 0
            clock.advance(61)
            _sweep(edge)
            (connection,) = upstream.connections
            await connection.until(lambda: connection.lost)
            assert (await client.call(METHOD, b"")).status == 0
        assert len(upstream.connections) == 2
        await edge.settled()


async def test_calls_that_find_no_room_wait_and_further_ones_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    go_on = asyncio.Event()

    async def script(stream: Stream) -> None:
        await go_on.wait()
        await echo(stream)

    upstream = H2Upstream(script, {SettingCodes.MAX_CONCURRENT_STREAMS: 1})
    pool = PoolOptions(max_connections=1, max_waiting=2)
    async with upstream.serve(), wire_edge(monkeypatch, pool=pool) as edge:
        (endpoint,) = edge.register(upstream.address)
        async with h2_connect(edge.public) as client:
            first = asyncio.ensure_future(client.call(METHOD, b"served"))
            await upstream.until_streams(1)
            waiting = [asyncio.ensure_future(client.call(METHOD, b"waits")) for _ in range(2)]
            await client.ping()
            refused = await client.call(METHOD, b"no room")
            assert (refused.status, refused.reason) == (outcome.UNAVAILABLE, "overloaded")
            go_on.set()
            assert [reply.status for reply in await asyncio.gather(first, *waiting)] == [0, 0, 0]
        await edge.settled()
        assert endpoint.failures <= 1


async def test_many_stalled_replies_hold_no_more_than_their_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client lets its replies flow, so that their windows grow, and then reads no more."""
    streams, sent = 100, [0]

    async def endless(stream: Stream) -> None:
        stream.send_headers(grpc_wire.response_headers())
        message = grpc_wire.frame(bytes(16 * 1024))
        while True:
            await stream.send_data(message)
            sent[0] += len(message)

    wide = {SettingCodes.INITIAL_WINDOW_SIZE: 100 * 1024}
    async with H2Upstream(endless).serve() as upstream, wire_edge(monkeypatch) as edge:
        edge.register(upstream.address)
        async with (
            h2_connect(edge.public, settings=wide, acknowledge=False) as client,
            h2_connect(edge.public) as other,
        ):
            calls = [client.start(grpc_wire.request_headers(METHOD), end=True) for _ in range(streams)]
            await client.until(lambda: sum(len(call.data) for call in calls) >= streams * 100 * 1024)
            await other.ping()
            before = -1
            while before != sent[0]:
                before = sent[0]
                await asyncio.sleep(0.2)  # nothing tells that nothing comes any more
            assert sent[0] <= Protection().max_buffered_bytes + streams * (100 + 64 + EARLY // 1024 + 16) * 1024
            for call in calls:
                call.reset(ErrorCodes.CANCEL)
            await edge.settled()


def _sweep(edge: EdgeUnderTest) -> None:
    assert isinstance(edge.engine, WireEngine)
    assert edge.engine._sweep_timer is not None
    edge.engine._sweep_timer.cancel()
    edge.engine._sweep()
