"""Which endpoint gets a call, by policy: balancers, and outliers that are set aside."""

from __future__ import annotations

import asyncio

from mesh.resilience import outcome
from mesh.resilience.policy import (
    LEAST_REQUEST,
    PEAK_EWMA,
    RING_HASH,
    BalancerOptions,
    OutlierOptions,
    RetryOptions,
    RoutePolicy,
)
from mesh.testing import ManualClock
from tests.conformance.h2_client import h2_connect
from tests.conformance.h2_peer import Stream
from tests.conformance.h2_upstream import H2Upstream, echo, reply
from tests.conformance.harness import METHOD, run_edge

OUTLIERS = RoutePolicy(outlier=OutlierOptions(consecutive_failures=3, base_ejection_seconds=30))


class Moody:
    """An upstream that answers with the status that it is told."""

    def __init__(self, code: int = outcome.OK) -> None:
        self.code = code

    async def __call__(self, stream: Stream) -> None:
        await stream.until(lambda: stream.ended)
        await reply(stream, code=self.code)


async def test_an_outlier_is_set_aside_and_comes_back_by_itself(engine: str) -> None:
    clock, moody = ManualClock(), Moody(outcome.INTERNAL)
    async with (
        H2Upstream(moody).serve() as ill,
        H2Upstream(echo).serve() as well,
        H2Upstream(echo).serve() as fine,
        run_edge(engine, clock=clock, policy=OUTLIERS) as edge,
    ):
        (endpoint,) = edge.register(ill.address)
        edge.register(well.address, fine.address)
        async with h2_connect(edge.public) as client:
            seen = [(await client.call(METHOD, b"x")).status for _ in range(20)]
            assert seen.count(outcome.INTERNAL) == len(ill.streams) == 3
            assert endpoint.outlier is not None
            assert endpoint.outlier.ejected_until == clock.now() + 30
            moody.code = outcome.OK
            clock.advance(29.9)
            assert [(await client.call(METHOD, b"x")).status for _ in range(6)] == [0] * 6
            assert len(ill.streams) == 3
            clock.advance(0.2)
            assert [(await client.call(METHOD, b"x")).status for _ in range(6)] == [0] * 6
            assert len(ill.streams) == 5
        await edge.settled()


async def test_most_endpoints_stay_in_and_those_that_are_out_are_better_than_none(engine: str) -> None:
    async with (
        H2Upstream(Moody(outcome.INTERNAL)).serve() as one,
        H2Upstream(Moody(outcome.INTERNAL)).serve() as two,
        run_edge(engine, clock=ManualClock(), policy=OUTLIERS) as edge,
    ):
        endpoints = edge.register(one.address, two.address)
        async with h2_connect(edge.public) as client:
            for _ in range(12):
                assert (await client.call(METHOD, b"x")).status == outcome.INTERNAL
            assert [bool(point.outlier and point.outlier.ejected_until) for point in endpoints].count(True) == 1
            (out,) = [point for point in endpoints if point.outlier and point.outlier.ejected_until]
            # The other one leaves: a suspect is better than nobody.
            edge.deregister(next(point.address for point in endpoints if point is not out))
            assert (await client.call(METHOD, b"x")).reason == ""
        await edge.settled()


async def test_errors_of_clients_set_nobody_aside(engine: str) -> None:
    async with (
        H2Upstream(Moody(outcome.INVALID_ARGUMENT)).serve() as one,
        H2Upstream(echo).serve() as two,
        run_edge(engine, policy=OUTLIERS) as edge,
    ):
        endpoints = edge.register(one.address, two.address)
        async with h2_connect(edge.public) as client:
            for _ in range(20):
                await client.call(METHOD, b"x")
        await edge.settled()
        assert [point.outlier.ejections for point in endpoints if point.outlier] == [0, 0]


async def test_an_outlier_is_what_retries_step_over(engine: str) -> None:
    policy = RoutePolicy(
        outlier=OUTLIERS.outlier, retry=RetryOptions(on=frozenset({"UNAVAILABLE"}), backoff_base_seconds=0.001)
    )

    async def unavailable(stream: Stream) -> None:
        await stream.until(lambda: stream.ended)
        stream.send_headers(
            [(b":status", b"200"), (b"content-type", b"application/grpc"), (b"grpc-status", b"14")], end=True
        )

    async with (
        H2Upstream(unavailable).serve() as ill,
        H2Upstream(echo).serve() as well,
        run_edge(engine, policy=policy) as edge,
    ):
        edge.register(ill.address, well.address)
        async with h2_connect(edge.public) as client:
            assert [(await client.call(METHOD, b"x")).status for _ in range(20)] == [0] * 20
        await edge.settled()
        assert len(ill.streams) == 3


async def test_least_request_avoids_an_instance_that_is_slow(engine: str) -> None:
    release = asyncio.Event()

    async def slow(stream: Stream) -> None:
        await stream.until(lambda: stream.ended)
        await release.wait()
        await reply(stream)

    policy = RoutePolicy(balancer=BalancerOptions(LEAST_REQUEST))
    async with (
        H2Upstream(slow).serve() as stuck,
        H2Upstream(echo).serve() as well,
        run_edge(engine, policy=policy) as edge,
    ):
        edge.register(stuck.address, well.address)
        async with h2_connect(edge.public) as client:
            waiting = []
            while not stuck.streams:  # the first draw decides between two that are idle
                waiting.append(asyncio.ensure_future(client.call(METHOD, b"x")))
                await asyncio.wait(waiting[-1:], timeout=0.05)
            before = len(stuck.streams)
            for _ in range(30):
                assert (await client.call(METHOD, b"x")).status == 0
            assert len(stuck.streams) == before, "of two, the one with a call in flight gets no other"
            release.set()
            await asyncio.gather(*waiting)
        await edge.settled()


async def test_peak_ewma_leaves_a_failing_instance_alone(engine: str) -> None:
    policy = RoutePolicy(balancer=BalancerOptions(PEAK_EWMA))
    async with (
        H2Upstream(Moody(outcome.INTERNAL)).serve() as ill,
        H2Upstream(echo).serve() as well,
        run_edge(engine, policy=policy, clock=ManualClock()) as edge,
    ):
        edge.register(ill.address, well.address)
        async with h2_connect(edge.public) as client:
            for _ in range(60):
                await client.call(METHOD, b"x")
        await edge.settled()
        # Time stands still, so nothing is forgotten: its first failure makes it look twice as slow as the other.
        assert len(ill.streams) <= 1
        assert len(well.streams) >= 59


async def test_ring_hash_keeps_a_key_on_one_instance_and_moves_what_it_must(engine: str) -> None:
    policy = RoutePolicy(balancer=BalancerOptions(RING_HASH, hash_key="x-user"))
    upstreams = [H2Upstream(echo) for _ in range(4)]

    async def owners() -> dict[int, int]:
        found = {}
        for key in range(40):
            before = [len(one.streams) for one in upstreams]
            for _ in range(2):
                assert (await client.call(METHOD, b"x", metadata=((b"x-user", b"%d" % key),))).status == 0
            grown = [number for number, one in enumerate(upstreams) if len(one.streams) > before[number]]
            assert len(grown) == 1, "both calls went to one"
            found[key] = grown[0]
        return found

    async with (
        upstreams[0].serve(),
        upstreams[1].serve(),
        upstreams[2].serve(),
        upstreams[3].serve(),
        run_edge(engine, policy=policy) as edge,
    ):
        edge.register(*(one.address for one in upstreams))
        async with h2_connect(edge.public) as client:
            first = await owners()
            assert len(set(first.values())) > 1
            lost = first[0]
            edge.deregister(upstreams[lost].address)
            second = await owners()
            assert all((first[key] == lost) == (first[key] != second[key]) for key in first)
            assert (await client.call(METHOD, b"no key")).status == 0
        await edge.settled()


async def test_a_ring_goes_on_when_an_instance_dies_unnoticed(engine: str) -> None:
    """It is registered still, but nobody listens: the keys go to the next one, each time."""
    policy = RoutePolicy(balancer=BalancerOptions(RING_HASH, hash_key="x-user"))
    async with H2Upstream(echo).serve() as gone:
        pass
    async with H2Upstream(echo).serve() as well, run_edge(engine, policy=policy) as edge:
        edge.register(gone.address, well.address)
        async with h2_connect(edge.public) as client:
            for key in range(20):
                assert (await client.call(METHOD, b"x", metadata=((b"x-user", b"%d" % key),))).status == 0
        await edge.settled()
