"""Retries by policy: what is asked for, within a budget, and nothing that the client has seen a part of."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import grpc
import pytest
from h2.errors import ErrorCodes

from mesh.resilience import outcome
from mesh.resilience.policy import RetryOptions, RoutePolicy
from tests.conformance import grpc_wire
from tests.conformance.grpc_upstream import GrpcUpstream, UpstreamCall
from tests.conformance.h2_client import h2_connect
from tests.conformance.h2_peer import HANG_SECONDS, Stream
from tests.conformance.h2_upstream import H2Upstream, Script, echo, hang, reply
from tests.conformance.harness import METHOD, connect, run_edge, unary

PUSHBACK = b"grpc-retry-pushback-ms"
PREVIOUS = b"grpc-previous-rpc-attempts"


def retrying(*on: str, attempts: int = 3, **options: float) -> RoutePolicy:
    quick = {"backoff_base_seconds": 0.001, "backoff_max_seconds": 0.001, **options}
    return RoutePolicy(retry=RetryOptions(attempts=attempts, on=frozenset(on or ("UNAVAILABLE",)), **quick))


def failing(times: int, code: int = outcome.UNAVAILABLE, *more: tuple[bytes, bytes]) -> Script:
    """Return a script that fails so many times, by trailers alone, and then echoes."""
    seen: list[Stream] = []

    async def script(stream: Stream) -> None:
        seen.append(stream)
        if len(seen) > times:
            await echo(stream)
            return
        await stream.until(lambda: stream.ended)
        stream.send_headers(grpc_wire.response_headers(*grpc_wire.status_headers(code, "busy", *more)), end=True)

    return script


def previous(streams: Sequence[Stream]) -> list[bytes | None]:
    return [stream.header(PREVIOUS) for stream in streams]


async def test_answers_with_a_code_that_is_asked_for_are_made_again(engine: str) -> None:
    async with H2Upstream(failing(2)).serve() as upstream, run_edge(engine, policy=retrying()) as edge:
        edge.register(upstream.address)
        async with h2_connect(edge.public) as client:
            answer = await client.call(METHOD, b"one", b"two")
        assert (answer.status, answer.messages, answer.reason) == (0, [b"one", b"two"], ""), answer.message
        assert (await edge.call_record()).attempts == 3
        assert previous(upstream.streams) == [None, b"1", b"2"]


async def test_the_attempts_that_the_client_made_are_counted_too(engine: str) -> None:
    async with H2Upstream(failing(1)).serve() as upstream, run_edge(engine, policy=retrying()) as edge:
        edge.register(upstream.address)
        async with h2_connect(edge.public) as client:
            assert (await client.call(METHOD, metadata=((PREVIOUS, b"4"),))).status == 0
        await edge.settled()
        assert previous(upstream.streams) == [b"4", b"5"]


async def test_the_last_answer_is_passed_on_as_it_came(engine: str) -> None:
    script = failing(9, outcome.UNAVAILABLE, (b"x-detail", b"why"))
    async with H2Upstream(script).serve() as upstream, run_edge(engine, policy=retrying()) as edge:
        edge.register(upstream.address)
        async with h2_connect(edge.public) as client:
            answer = await client.call(METHOD, b"x")
        assert (answer.status, answer.message, answer.reason) == (outcome.UNAVAILABLE, "busy", "")
        assert (b"x-detail", b"why") in answer.trailers
        assert (await edge.call_record()).attempts == len(upstream.streams) == 3


@pytest.mark.parametrize("code", [outcome.RESOURCE_EXHAUSTED, outcome.INTERNAL, outcome.DEADLINE_EXCEEDED])
async def test_other_codes_are_answers(engine: str, code: int) -> None:
    async with H2Upstream(failing(1, code)).serve() as upstream, run_edge(engine, policy=retrying()) as edge:
        edge.register(upstream.address)
        async with h2_connect(edge.public) as client:
            assert (await client.call(METHOD, b"x")).status == code
        assert (await edge.call_record()).attempts == 1


async def test_another_instance_is_tried_where_there_is_one(engine: str) -> None:
    async with (
        H2Upstream(failing(100)).serve() as ill,
        H2Upstream(echo).serve() as well,
        run_edge(engine, policy=retrying(attempts=2)) as edge,
    ):
        edge.register(ill.address, well.address)
        async with h2_connect(edge.public) as client:
            assert [(await client.call(METHOD, b"x")).status for _ in range(6)] == [0] * 6
        await edge.settled()
        assert len(well.streams) == 6
        assert len(ill.streams) >= 3


async def reset_internal(stream: Stream) -> None:
    await stream.until(lambda: stream.ended)
    stream.reset(ErrorCodes.INTERNAL_ERROR)


async def cut(stream: Stream) -> None:
    await stream.until(lambda: stream.ended)
    stream.peer.cut()


async def http_503(stream: Stream) -> None:
    await stream.until(lambda: stream.ended)
    stream.send_headers([(b":status", b"503")], end=True)


async def refuse(stream: Stream) -> None:
    await stream.until(lambda: stream.ended)
    stream.reset(ErrorCodes.REFUSED_STREAM)


@pytest.mark.parametrize(
    ("first", "on"),
    [(reset_internal, "INTERNAL"), (cut, "UNAVAILABLE"), (http_503, "UNAVAILABLE"), (refuse, "refused")],
)
async def test_what_an_upstream_does_instead_of_answering_counts_by_its_code(
    engine: str, first: Script, on: str
) -> None:
    seen: list[Stream] = []

    async def script(stream: Stream) -> None:
        seen.append(stream)
        await (first(stream) if len(seen) <= 2 else echo(stream))

    async with H2Upstream(script).serve() as upstream, run_edge(engine, policy=retrying(on, attempts=4)) as edge:
        edge.register(upstream.address)
        async with h2_connect(edge.public) as client:
            answer = await client.call(METHOD, b"x")
        assert (answer.status, answer.messages) == (0, [b"x"]), answer.message
        assert (await edge.call_record()).attempts == 3


async def test_a_lone_instance_that_cannot_be_reached_is_tried_again(engine: str) -> None:
    async with H2Upstream(echo).serve() as gone:
        address = gone.address
    async with run_edge(engine, policy=retrying("connect-failure", attempts=4)) as edge:
        (endpoint,) = edge.register(address)
        async with h2_connect(edge.public) as client:
            answer = await client.call(METHOD, b"x")
        assert (answer.status, answer.reason) == (outcome.UNAVAILABLE, "upstream_connect_failed")
        assert (await edge.call_record()).attempts == endpoint.failures == 4


async def test_the_budget_ends_retries_and_the_answer_is_the_upstreams(engine: str) -> None:
    policy = retrying(budget_share=0.0, budget_minimum=0.3)  # three in ten seconds
    async with H2Upstream(failing(1000)).serve() as upstream, run_edge(engine, policy=policy) as edge:
        edge.register(upstream.address)
        async with h2_connect(edge.public) as client:
            answers = [await client.call(METHOD, b"x") for _ in range(5)]
        assert [(one.status, one.message) for one in answers] == [(outcome.UNAVAILABLE, "busy")] * 5
        await edge.settled()
        assert len(upstream.streams) == 5 + 3


@pytest.mark.parametrize(("said", "attempts"), [(b"0", 2), (b"1", 2), (b"-1", 1), (b"999999", 1)])
async def test_what_the_upstream_says_of_retries_is_heeded(engine: str, said: bytes, attempts: int) -> None:
    script = failing(1, outcome.UNAVAILABLE, (PUSHBACK, said))
    async with H2Upstream(script).serve() as upstream, run_edge(engine, policy=retrying()) as edge:
        edge.register(upstream.address)
        async with h2_connect(edge.public) as client:
            answer = await client.call(METHOD, b"x")
        assert len(upstream.streams) == attempts
        assert answer.status == (0 if attempts == 2 else outcome.UNAVAILABLE)
        await edge.settled()


async def test_an_attempt_that_takes_too_long_is_given_up_for_another(engine: str) -> None:
    seen: list[Stream] = []

    async def script(stream: Stream) -> None:
        seen.append(stream)
        await (hang(stream) if len(seen) == 1 else echo(stream))

    async with H2Upstream(script).serve() as upstream, run_edge(engine, policy=retrying(per_try_seconds=0.1)) as edge:
        edge.register(upstream.address)
        async with h2_connect(edge.public) as client:
            # A slow machine may let the time of an attempt pass before its upstream has the request.
            answer = await client.call(METHOD, b"x")
        assert answer.status in (0, outcome.DEADLINE_EXCEEDED)
        async with asyncio.timeout(HANG_SECONDS):
            await upstream.streams[0].until(lambda: upstream.streams[0].reset_code is not None)
        record = await edge.call_record()
        assert record.attempts >= 2
        assert answer.status == 0 or record.attempts == 3


async def test_when_all_attempts_take_too_long_it_is_told(engine: str) -> None:
    policy = retrying(attempts=2, per_try_seconds=0.05)
    async with H2Upstream(hang).serve() as upstream, run_edge(engine, policy=policy) as edge:
        (endpoint,) = edge.register(upstream.address)
        async with h2_connect(edge.public) as client:
            answer = await client.call(METHOD, b"x")
        assert (answer.status, answer.reason) == (outcome.DEADLINE_EXCEEDED, "deadline_exceeded")
        assert "0.05 s of an attempt" in answer.message
        assert (await edge.call_record()).attempts == 2
        assert endpoint.failures == 2


async def test_a_long_answer_is_not_held_to_the_time_of_an_attempt(engine: str) -> None:
    release = asyncio.Event()

    async def script(stream: Stream) -> None:
        await stream.until(lambda: stream.ended)
        stream.send_headers(grpc_wire.response_headers())
        await stream.send_data(grpc_wire.frame(b"first"))
        await release.wait()
        stream.send_headers(grpc_wire.status_headers(0), end=True)

    async with H2Upstream(script).serve() as upstream, run_edge(engine, policy=retrying(per_try_seconds=0.25)) as edge:
        edge.register(upstream.address)
        async with h2_connect(edge.public) as client:
            stream = client.start(grpc_wire.request_headers(METHOD))
            await stream.send_data(grpc_wire.frame(b"x"), end=True)
            await stream.until(lambda: grpc_wire.parse(stream.data) == [b"first"])
            await asyncio.sleep(0.35)  # the time of an attempt passes
            release.set()
            assert (await client.reply(stream)).status == 0
        await edge.settled()


async def test_nothing_is_made_again_once_the_client_has_seen_headers(engine: str) -> None:
    async def script(stream: Stream) -> None:
        await stream.until(lambda: stream.ended)
        await reply(stream, b"some", code=outcome.UNAVAILABLE)

    async with H2Upstream(script).serve() as upstream, run_edge(engine, policy=retrying()) as edge:
        edge.register(upstream.address)
        async with h2_connect(edge.public) as client:
            answer = await client.call(METHOD, b"x")
        assert (answer.status, answer.messages) == (outcome.UNAVAILABLE, [b"some"])
        assert (await edge.call_record()).attempts == 1


async def test_a_request_beyond_the_buffer_is_not_made_again(engine: str) -> None:
    policy = retrying(per_try_seconds=30.0)
    async with H2Upstream(failing(1)).serve() as upstream, run_edge(engine, policy=policy) as edge:
        edge.register(upstream.address)
        async with h2_connect(edge.public) as client:
            answer = await client.call(METHOD, bytes(40_000), bytes(40_000))
        assert answer.status == outcome.UNAVAILABLE
        assert (await edge.call_record()).attempts == len(upstream.streams) == 1


async def test_a_client_that_leaves_while_the_edge_waits_ends_the_call(engine: str) -> None:
    policy = retrying(backoff_base_seconds=1000, backoff_max_seconds=1000)
    answered = asyncio.Event()

    async def script(stream: Stream) -> None:
        await failing(1)(stream)
        answered.set()

    async with H2Upstream(script).serve() as upstream, run_edge(engine, policy=policy) as edge:
        (endpoint,) = edge.register(upstream.address)
        async with h2_connect(edge.public) as client:
            stream = client.start(grpc_wire.request_headers(METHOD))
            await stream.send_data(grpc_wire.frame(b"x"), end=True)
            await answered.wait()
            async with asyncio.timeout(HANG_SECONDS):
                while endpoint.in_flight or not endpoint.calls:
                    await asyncio.sleep(0.01)
            stream.reset(ErrorCodes.CANCEL)
            record = await edge.call_record()
        assert (record.status, record.attempts) == (outcome.CANCELLED, 1)
        assert len(upstream.streams) == 1


async def test_what_the_client_sends_while_the_edge_waits_is_not_lost(engine: str) -> None:
    policy = retrying(backoff_base_seconds=0.05, backoff_max_seconds=0.05)

    async def fail_early(stream: Stream) -> None:
        await stream.until(lambda: grpc_wire.parse(stream.data) == [b"early"])
        busy = grpc_wire.status_headers(outcome.UNAVAILABLE, "busy", (PUSHBACK, b"100"))
        stream.send_headers(grpc_wire.response_headers(*busy), end=True)

    seen: list[Stream] = []

    async def script(stream: Stream) -> None:
        seen.append(stream)
        await (fail_early(stream) if len(seen) == 1 else echo(stream))

    async with H2Upstream(script).serve() as upstream, run_edge(engine, policy=policy) as edge:
        (endpoint,) = edge.register(upstream.address)
        async with h2_connect(edge.public) as client:
            stream = client.start(grpc_wire.request_headers(METHOD))
            await stream.send_data(grpc_wire.frame(b"early"))
            async with asyncio.timeout(HANG_SECONDS):
                while endpoint.in_flight or not endpoint.calls:
                    await asyncio.sleep(0)
            await stream.send_data(grpc_wire.frame(b"late"), end=True)
            answer = await client.reply(stream)
        assert (answer.status, answer.messages) == (0, [b"early", b"late"]), answer.message
        assert (await edge.call_record()).attempts == 2


async def test_the_deadline_holds_over_all_attempts(engine: str) -> None:
    """A wait that would outlast it is not begun: the client hears the reason at once."""
    script = failing(1, outcome.UNAVAILABLE, (PUSHBACK, b"9000"))
    async with H2Upstream(script).serve() as upstream, run_edge(engine, policy=retrying()) as edge:
        edge.register(upstream.address)
        async with h2_connect(edge.public) as client:
            answer = await client.call(METHOD, b"x", metadata=((b"grpc-timeout", b"8S"),))
        assert (answer.status, answer.message) == (outcome.UNAVAILABLE, "busy")
        assert (await edge.call_record()).attempts == 1


async def test_real_clients_and_servers_see_nothing_of_it(engine: str) -> None:
    calls: list[UpstreamCall] = []

    async def flaky(call: UpstreamCall) -> AsyncIterator[bytes]:
        calls.append(call)
        if len(calls) % 2:
            await call.context.abort(grpc.StatusCode.UNAVAILABLE, "not now")
        async for message in call.read():
            yield message

    async with GrpcUpstream(flaky).serve() as upstream, run_edge(engine, policy=retrying()) as edge:
        edge.register(upstream.address)
        async with connect(edge.public) as channel:
            for number in range(10):
                assert await unary(channel)(b"%d" % number, timeout=HANG_SECONDS) == b"%d" % number
        assert len(calls) == 20
        await edge.settled()
