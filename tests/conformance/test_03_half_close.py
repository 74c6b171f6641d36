"""3. Half-close in either order; the upstream may end first while the client still sends."""

from __future__ import annotations

from tests.conformance import grpc_wire
from tests.conformance.h2_client import h2_connect
from tests.conformance.h2_peer import Stream
from tests.conformance.h2_upstream import H2Upstream, reply
from tests.conformance.harness import METHOD, run_edge


async def test_client_ends_first_and_the_upstream_goes_on(engine: str) -> None:
    async def script(stream: Stream) -> None:
        await stream.until(lambda: stream.ended)
        await reply(stream, b"one", b"two")

    async with H2Upstream(script).serve() as upstream, run_edge(engine) as edge:
        edge.register(upstream.address)
        async with h2_connect(edge.public) as client:
            answer = await client.call(METHOD, b"all")
        assert (answer.status, answer.messages) == (0, [b"one", b"two"])
        assert upstream.streams[0].data == grpc_wire.frame(b"all")
        assert upstream.streams[0].reset_code is None
        await edge.settled()


async def test_client_ends_without_a_message(engine: str) -> None:
    async def script(stream: Stream) -> None:
        await stream.until(lambda: stream.ended)
        await reply(stream, b"none came")

    async with H2Upstream(script).serve() as upstream, run_edge(engine) as edge:
        edge.register(upstream.address)
        async with h2_connect(edge.public) as client:
            stream = client.start(grpc_wire.request_headers(METHOD), end=True)
            answer = await client.reply(stream)
        assert (answer.status, answer.messages) == (0, [b"none came"])
        assert upstream.streams[0].data == b""
        await edge.settled()


async def test_headers_pass_before_the_client_sends_anything(engine: str) -> None:
    async def script(stream: Stream) -> None:
        stream.send_headers(grpc_wire.response_headers((b"x-early", b"1")))
        await stream.until(lambda: stream.ended)
        await stream.send_data(stream.data)
        stream.send_headers(grpc_wire.status_headers(0), end=True)

    async with H2Upstream(script).serve() as upstream, run_edge(engine) as edge:
        edge.register(upstream.address)
        async with h2_connect(edge.public) as client:
            stream = client.start(grpc_wire.request_headers(METHOD))
            await stream.until(lambda: bool(stream.headers))
            assert stream.header(b"x-early") == b"1"
            await stream.send_data(grpc_wire.frame(b"late"), end=True)
            answer = await client.reply(stream)
        assert (answer.status, answer.messages) == (0, [b"late"])
        await edge.settled()


async def test_bare_headers_pass_before_the_client_sends_anything(engine: str) -> None:
    """Without metadata of its own a reply's headers are still what some clients wait for before they send."""

    async def script(stream: Stream) -> None:
        stream.send_headers(grpc_wire.response_headers())
        await stream.until(lambda: stream.ended)
        stream.send_headers(grpc_wire.status_headers(0), end=True)

    async with H2Upstream(script).serve() as upstream, run_edge(engine) as edge:
        edge.register(upstream.address)
        async with h2_connect(edge.public) as client:
            stream = client.start(grpc_wire.request_headers(METHOD))
            await stream.until(lambda: bool(stream.headers))
            stream.end()
            assert (await client.reply(stream)).status == 0
        await edge.settled()


async def test_upstream_ends_first_while_the_client_still_sends(engine: str) -> None:
    async def script(stream: Stream) -> None:
        await stream.until(lambda: grpc_wire.parse(stream.data) == [b"first"])
        await reply(stream, b"enough", code=9, message="no more")

    async with H2Upstream(script).serve() as upstream, run_edge(engine) as edge:
        edge.register(upstream.address)
        async with h2_connect(edge.public) as client:
            stream = client.start(grpc_wire.request_headers(METHOD))
            await stream.send_data(grpc_wire.frame(b"first"))
            answer = await client.reply(stream)
            assert (answer.status, answer.message, answer.messages) == (9, "no more", [b"enough"])
            # What the client goes on to send hurts nobody.
            await client.ping()
            again = client.start(grpc_wire.request_headers(METHOD))
            await again.send_data(grpc_wire.frame(b"first"))
            assert (await client.reply(again)).status == 9
        assert all(one.status == 9 for one in await edge.settled())


async def test_upstream_ends_at_once_while_the_client_sends_much(engine: str) -> None:
    async def script(stream: Stream) -> None:
        stream.send_headers(grpc_wire.response_headers(*grpc_wire.status_headers(7, "not you")), end=True)

    async with H2Upstream(script, acknowledge=False).serve() as upstream, run_edge(engine) as edge:
        edge.register(upstream.address)
        async with h2_connect(edge.public) as client:
            stream = client.start(grpc_wire.request_headers(METHOD))
            await stream.send_data(grpc_wire.frame(bytes(60_000)))
            answer = await client.reply(stream)
            assert (answer.status, answer.message) == (7, "not you")
        await edge.settled()


async def test_messages_flow_after_the_client_ended(engine: str) -> None:
    async def script(stream: Stream) -> None:
        await stream.until(lambda: stream.ended)
        stream.send_headers(grpc_wire.response_headers())
        for number in range(50):
            await stream.send_data(grpc_wire.frame(b"%d" % number))
        stream.send_headers(grpc_wire.status_headers(0), end=True)

    async with H2Upstream(script).serve() as upstream, run_edge(engine) as edge:
        edge.register(upstream.address)
        async with h2_connect(edge.public) as client:
            answer = await client.call(METHOD)
        assert answer.messages == [b"%d" % number for number in range(50)]
        record = await edge.call_record()
        assert record.messages_out == 50
