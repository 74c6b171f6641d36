"""6. Streams that the upstream never processed are tried once more, transparently; all others never."""

from __future__ import annotations

import pytest
from h2.errors import ErrorCodes

from mesh.resilience import outcome
from tests.conformance import grpc_wire
from tests.conformance.h2_client import H2Client, Reply, h2_connect
from tests.conformance.h2_peer import Stream
from tests.conformance.h2_upstream import H2Upstream, Script, echo
from tests.conformance.harness import METHOD, run_edge

REPLAY_BYTES = 64 * 1024


def first_then_echo(first: Script) -> Script:
    """Return a script that plays `first` on the first stream of all, and echoes on the others."""
    seen: list[Stream] = []

    async def script(stream: Stream) -> None:
        seen.append(stream)
        await (first(stream) if len(seen) == 1 else echo(stream))

    return script


async def refuse(stream: Stream) -> None:
    await stream.until(lambda: stream.ended)
    stream.reset(ErrorCodes.REFUSED_STREAM)


async def goaway_below(stream: Stream) -> None:
    await stream.until(lambda: stream.ended)
    stream.peer.goaway(0)


@pytest.mark.parametrize("first", [refuse, goaway_below], ids=["refused", "goaway"])
@pytest.mark.parametrize("endpoints", [1, 2])
async def test_unprocessed_stream_is_tried_again(engine: str, first: Script, endpoints: int) -> None:
    script = first_then_echo(first)
    async with H2Upstream(script).serve() as one, H2Upstream(script).serve() as two, run_edge(engine) as edge:
        edge.register(*[one.address, two.address][:endpoints])
        async with h2_connect(edge.public) as client:
            reply = await client.call(METHOD, b"first", b"second")
        assert (reply.status, reply.messages, reply.reason) == (0, [b"first", b"second"], ""), reply.message
        record = await edge.call_record()
        assert record.attempts == 2
        assert len(one.streams) + len(two.streams) == 2


async def test_streams_above_the_last_one_are_tried_again_and_those_below_go_on(engine: str) -> None:
    async def script(stream: Stream) -> None:
        if len(upstream.streams) == 1:
            await stream.until(lambda: stream.ended)
            await upstream.until_streams(2)
            stream.peer.goaway(stream.id)
            await upstream.until_streams(3)
        elif len(upstream.streams) == 2:
            return
        await echo(stream)

    upstream = H2Upstream(script)
    async with upstream.serve(), run_edge(engine) as edge:
        edge.register(upstream.address)
        async with h2_connect(edge.public) as client:
            below = await _started(client, b"below")
            await upstream.until_streams(1)
            above = await _started(client, b"above")
            assert (await client.reply(above)).messages == [b"above"]
            assert (await client.reply(below)).messages == [b"below"]
        assert sorted(record.attempts for record in await edge.settled()) == [1, 2]
        assert len(upstream.connections) == 2


@pytest.mark.parametrize("endpoints", [1, 2])
async def test_second_refusal_is_the_answer(engine: str, endpoints: int) -> None:
    async with H2Upstream(refuse).serve() as one, H2Upstream(refuse).serve() as two, run_edge(engine) as edge:
        edge.register(*[one.address, two.address][:endpoints])
        async with h2_connect(edge.public) as client:
            reply = await client.call(METHOD, b"request")
        assert (reply.status, reply.reason) == (outcome.UNAVAILABLE, "upstream_reset")
        record = await edge.call_record()
        assert record.attempts == len(one.streams) + len(two.streams) == 2


async def _headers_then_refuse(stream: Stream) -> None:
    stream.send_headers(grpc_wire.response_headers((b"x-begun", b"1")))
    await stream.until(lambda: stream.ended)
    await stream.peer.ping()
    stream.reset(ErrorCodes.REFUSED_STREAM)


async def _cancel(stream: Stream) -> None:
    await stream.until(lambda: stream.ended)
    stream.reset(ErrorCodes.CANCEL)


async def _internal_error(stream: Stream) -> None:
    await stream.until(lambda: stream.ended)
    stream.reset(ErrorCodes.INTERNAL_ERROR)


async def _cut(stream: Stream) -> None:
    await stream.until(lambda: stream.ended)
    stream.peer.cut()


async def _goaway_then_cut(stream: Stream) -> None:
    await stream.until(lambda: stream.ended)
    stream.peer.goaway(stream.id)
    await stream.peer.ping()
    stream.peer.cut()


async def _say_unavailable(stream: Stream) -> None:
    await stream.until(lambda: stream.ended)
    stream.send_headers(grpc_wire.response_headers(*grpc_wire.status_headers(14, "busy")), end=True)


@pytest.mark.parametrize(
    "script", [_headers_then_refuse, _cancel, _internal_error, _cut, _goaway_then_cut, _say_unavailable]
)
async def test_stream_that_may_have_been_processed_is_not_tried_again(engine: str, script: Script) -> None:
    async with H2Upstream(script).serve() as one, H2Upstream(script).serve() as two, run_edge(engine) as edge:
        edge.register(one.address, two.address)
        async with h2_connect(edge.public) as client:
            reply = await client.call(METHOD, b"request")
        assert reply.status != 0
        record = await edge.call_record()
        assert record.attempts == len(one.streams) + len(two.streams) == 1


async def test_what_was_read_up_to_the_buffer_is_replayed(engine: str) -> None:
    async with H2Upstream(first_then_echo(refuse)).serve() as upstream, run_edge(engine) as edge:
        edge.register(upstream.address)
        messages = [bytes([number]) * 8000 for number in range(8)]
        assert sum(map(len, messages)) < REPLAY_BYTES
        async with h2_connect(edge.public) as client:
            reply = await client.call(METHOD, *messages)
        assert (reply.status, reply.messages) == (0, messages)
        await edge.settled()


async def test_nothing_is_tried_again_once_the_buffer_overflowed(engine: str) -> None:
    async with H2Upstream(first_then_echo(refuse)).serve() as upstream, run_edge(engine) as edge:
        edge.register(upstream.address)
        async with h2_connect(edge.public) as client:
            reply = await client.call(METHOD, bytes(40_000), bytes(40_000))
        assert (reply.status, reply.reason) == (outcome.UNAVAILABLE, "upstream_reset")
        assert (await edge.call_record()).attempts == 1


async def test_message_that_comes_during_the_second_attempt_is_not_lost(engine: str) -> None:
    """The first attempt ends while the edge waits for the client's next message."""

    async def refuse_early(stream: Stream) -> None:
        await stream.until(lambda: grpc_wire.parse(stream.data) == [b"early"])
        stream.reset(ErrorCodes.REFUSED_STREAM)

    async with H2Upstream(first_then_echo(refuse_early)).serve() as upstream, run_edge(engine) as edge:
        edge.register(upstream.address)
        async with h2_connect(edge.public) as client:
            stream = client.start(grpc_wire.request_headers(METHOD))
            await stream.send_data(grpc_wire.frame(b"early"))
            second = (await upstream.until_streams(2))[1]
            await second.until(lambda: grpc_wire.parse(second.data) == [b"early"])
            await stream.send_data(grpc_wire.frame(b"late"), end=True)
            reply: Reply = await client.reply(stream)
        assert (reply.status, reply.messages) == (0, [b"early", b"late"])
        assert (await edge.call_record()).attempts == 2


async def _started(client: H2Client, message: bytes) -> Stream:
    stream = client.start(grpc_wire.request_headers(METHOD))
    await stream.send_data(grpc_wire.frame(message), end=True)
    return stream
