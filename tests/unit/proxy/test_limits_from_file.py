"""An edge whose limits come from its configuration file keeps them: real sockets, no registry."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from h2.errors import ErrorCodes
from h2.settings import SettingCodes
from hyperframe.frame import HeadersFrame, PingFrame

from mesh.discovery.model import Directory, Instance, Service
from mesh.resilience import outcome
from proxy.edge import Edge
from proxy.engines.engine import PUBLIC
from proxy.options import EdgeOptions, load_config
from tests.conformance import grpc_wire
from tests.conformance.h2_client import h2_connect
from tests.conformance.h2_peer import HANG_SECONDS, Stream
from tests.conformance.h2_upstream import H2Upstream, echo
from tests.conformance.harness import ECHO, ENGINES, METHOD


@contextlib.asynccontextmanager
async def edge_with(tmp_path: Path, engine: str, content: str, *endpoints: str) -> AsyncIterator[str]:
    """Run an edge with a configuration file; yields its public address."""
    path = tmp_path / "edge.toml"
    anywhere = "".join(f'{name} = "127.0.0.1:0"\n' for name in ("public", "internal", "admin"))
    path.write_text(f'{anywhere}access_log = "off"\ngrace = 0\nengine = "{engine}"\n{content}')
    edge = Edge(EdgeOptions(control="127.0.0.1:1", **load_config(path)))
    async with edge.serve(asyncio.Event()) as addresses:
        there = Instance("echo", "one", endpoints, grpc_services=(ECHO,), public=True)
        edge.apply(Directory("test", 1, {"echo": Service("echo", (ECHO,), public=True)}, {there.key: there}))
        yield addresses[PUBLIC]


@pytest.mark.parametrize("engine", ENGINES)
async def test_connections_over_the_limit_are_closed(tmp_path: Path, engine: str) -> None:
    async with (
        edge_with(tmp_path, engine, "[protection]\nmax_connections = 2\n") as public,
        h2_connect(public) as first,
        h2_connect(public) as second,
    ):
        await first.ping()
        await second.ping()
        async with h2_connect(public) as third:
            await third.until(lambda: third.lost)
        await first.ping()
        await second.ping()


@pytest.mark.parametrize("engine", ENGINES)
async def test_connection_without_calls_is_drained(tmp_path: Path, engine: str) -> None:
    async with edge_with(tmp_path, engine, "[protection]\nidle_seconds = 1\n") as public, h2_connect(public) as client:
        await client.ping()
        await client.until(lambda: bool(client.goaways))


async def test_header_block_that_never_ends_is_no_call(tmp_path: Path) -> None:
    async with (
        edge_with(tmp_path, "wire", "[protection]\nfirst_call_seconds = 1\n") as public,
        h2_connect(public) as slow,
    ):
        block = slow.h2.encoder.encode(grpc_wire.request_headers(METHOD))
        slow.send_frame(HeadersFrame(slow.h2.get_next_available_stream_id(), data=block))
        await slow.until(lambda: slow.lost)
        assert slow.goaways


async def test_pings_over_the_limit_end_the_connection(tmp_path: Path) -> None:
    async with (
        edge_with(tmp_path, "wire", "[protection]\ncontrol_frames_per_second = 20\n") as public,
        h2_connect(public) as attacker,
        h2_connect(public) as other,
    ):
        # Fewer than the default allows.
        for _ in range(100):
            attacker.send_frame(PingFrame(0, opaque_data=b"12345678"))
        await attacker.until(lambda: attacker.lost)
        assert [frame.error_code for frame in attacker.goaways] == [ErrorCodes.ENHANCE_YOUR_CALM]  # type: ignore[attr-defined]
        await other.ping()


async def test_calls_that_find_no_room_are_refused(tmp_path: Path) -> None:
    go_on = asyncio.Event()

    async def script(stream: Stream) -> None:
        await go_on.wait()
        await echo(stream)

    upstream = H2Upstream(script, {SettingCodes.MAX_CONCURRENT_STREAMS: 1})
    async with (
        upstream.serve(),
        edge_with(tmp_path, "wire", "[pool]\nmax_connections = 1\nmax_waiting = 1\n", upstream.address) as public,
        h2_connect(public) as client,
    ):
        first = asyncio.ensure_future(client.call(METHOD, b"served"))
        await upstream.until_streams(1)
        waits = asyncio.ensure_future(client.call(METHOD, b"waits"))
        await client.ping()
        refused = await client.call(METHOD, b"no room")
        assert (refused.status, refused.reason) == (outcome.UNAVAILABLE, "overloaded")
        go_on.set()
        assert [reply.status for reply in await asyncio.gather(first, waits)] == [0, 0]


@pytest.mark.parametrize("engine", ENGINES)
async def test_endpoint_that_says_nothing_is_waited_for_as_long_as_is_set(tmp_path: Path, engine: str) -> None:
    silent: list[asyncio.StreamWriter] = []
    server = await asyncio.start_server(lambda _reader, writer: silent.append(writer), "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()[:2]
    # By default it would be given up before its deadline, with UNAVAILABLE.
    content = f"[pool]\nconnect_seconds = {2 * HANG_SECONDS}\n[deadline]\nmax_seconds = 2\n"
    async with server, edge_with(tmp_path, engine, content, f"{host}:{port}") as public, h2_connect(public) as client:
        assert (await client.call(METHOD, b"")).status == outcome.DEADLINE_EXCEEDED
    for writer in silent:
        writer.close()


async def test_what_the_aio_engine_cannot_obey_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    content = "[protection]\nmax_connections = 7\nresets_per_second = 9\n[pool]\nmax_waiting = 1\nconnect_seconds = 2\n"
    with caplog.at_level(logging.WARNING):
        async with edge_with(tmp_path, "wire", content):
            assert "has no" not in caplog.text
        async with edge_with(tmp_path, "aio", content):
            assert "the aio engine has no protection.resets_per_second, pool.max_waiting:" in caplog.text
