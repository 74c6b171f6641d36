"""Rate limits: refused with a reason and a time to come again, by key, whatever keys clients make up."""

from __future__ import annotations

from mesh.resilience import outcome
from mesh.resilience.policy import RateLimitOptions, RoutePolicy
from mesh.testing import ManualClock
from tests.conformance.h2_client import H2Client, Reply, h2_connect
from tests.conformance.h2_upstream import H2Upstream, echo
from tests.conformance.harness import METHOD, run_edge


def limited(**options: object) -> RoutePolicy:
    return RoutePolicy(rate_limit=RateLimitOptions(**{"per_second": 2.0, "burst": 3, **options}))  # type: ignore[arg-type]


async def _calls(client: H2Client, count: int, *metadata: tuple[bytes, bytes]) -> list[Reply]:
    return [await client.call(METHOD, b"x", metadata=metadata) for _ in range(count)]


async def test_calls_over_the_limit_are_refused_and_told_when_to_come_again(engine: str) -> None:
    clock = ManualClock()
    async with H2Upstream(echo).serve() as upstream, run_edge(engine, clock=clock, policy=limited()) as edge:
        edge.register(upstream.address)
        async with h2_connect(edge.public) as client:
            assert [one.status for one in await _calls(client, 3)] == [0] * 3
            for refused in await _calls(client, 2):
                assert (refused.status, refused.reason) == (outcome.RESOURCE_EXHAUSTED, "rate_limited")
                assert dict(refused.trailers)[b"grpc-retry-pushback-ms"] == b"500"
                assert refused.message == "echo takes 2 calls a second: retry after 0.500 s"
                assert refused.correlation_id
            clock.advance(0.5)
            assert [one.status for one in await _calls(client, 2)] == [0, outcome.RESOURCE_EXHAUSTED]
        await edge.settled()
        assert len(upstream.streams) == 4, "what is refused does not reach the upstream"


async def test_keys_have_buckets_of_their_own_and_made_up_ones_share_what_is_left(engine: str) -> None:
    policy = limited(key="metadata", metadata_key="x-user", burst=1, max_keys=4)
    async with (
        H2Upstream(echo).serve() as upstream,
        run_edge(engine, clock=ManualClock(), policy=policy) as edge,
    ):
        edge.register(upstream.address)
        async with h2_connect(edge.public) as client:
            one, two = (b"x-user", b"one"), (b"x-user", b"two")
            assert [answer.status for answer in await _calls(client, 2, one)] == [0, outcome.RESOURCE_EXHAUSTED]
            assert [answer.status for answer in await _calls(client, 1, two)] == [0]
            assert [answer.status for answer in await _calls(client, 1)] == [0], "no key is a key"
            answers = [(await _calls(client, 1, (b"x-user", b"%d" % number)))[0].status for number in range(10)]
            assert answers.count(0) == 2, "one bucket is left, and one is shared"
            assert [answer.status for answer in await _calls(client, 1, one)] == [outcome.RESOURCE_EXHAUSTED]
        await edge.settled()


async def test_connections_of_one_client_share_its_bucket(engine: str) -> None:
    policy = limited(key="peer")
    async with (
        H2Upstream(echo).serve() as upstream,
        run_edge(engine, clock=ManualClock(), policy=policy) as edge,
    ):
        edge.register(upstream.address)
        statuses = []
        for _ in range(5):
            async with h2_connect(edge.public) as client:
                statuses += [one.status for one in await _calls(client, 1)]
        assert statuses == [0, 0, 0, outcome.RESOURCE_EXHAUSTED, outcome.RESOURCE_EXHAUSTED]
        await edge.settled()


async def test_a_change_of_other_policies_fills_no_bucket(engine: str) -> None:
    policy = limited()
    async with (
        H2Upstream(echo).serve() as upstream,
        run_edge(engine, clock=ManualClock(), policy=policy) as edge,
    ):
        edge.register(upstream.address)
        async with h2_connect(edge.public) as client:
            assert [one.status for one in await _calls(client, 4)][-1] == outcome.RESOURCE_EXHAUSTED
            edge.state.follow(lambda _service, _method: policy)
            edge.register(upstream.address)
            assert [one.status for one in await _calls(client, 1)] == [outcome.RESOURCE_EXHAUSTED]
            edge.state.follow(lambda _service, _method: None)
            assert [one.status for one in await _calls(client, 5)] == [0] * 5, "no policy is no limit"
        await edge.settled()
