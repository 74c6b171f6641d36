"""The configuration's routes: by method and metadata, with weights and subsets, and what rules the calls on them."""

from __future__ import annotations

import asyncio
from collections import Counter

from mesh.resilience import outcome
from proxy.call.limits import Limits
from tests.conformance.h2_client import H2Client, Reply, h2_connect
from tests.conformance.h2_peer import Stream
from tests.conformance.h2_upstream import H2Upstream, Script, echo, hang, reply
from tests.conformance.harness import ECHO, METHOD, run_edge

OTHER_METHOD = f"/{ECHO}/Other"
CANARY = {"match": {"headers": {"x-canary": {"exact": "yes"}}}, "to": [{"service": "next"}]}


def saying(name: bytes) -> Script:
    """Return an upstream that answers with its name."""

    async def script(stream: Stream) -> None:
        await stream.until(lambda: stream.ended)
        await reply(stream, name)

    return script


async def who(client: H2Client, *metadata: tuple[bytes, bytes], method: str = METHOD) -> str:
    answer = await client.call(method, b"?", metadata=metadata)
    assert answer.status == 0, answer.message
    return b"".join(answer.messages).decode()


async def test_a_header_decides_and_all_others_go_where_they_went(engine: str) -> None:
    async with (
        H2Upstream(saying(b"old")).serve() as old,
        H2Upstream(saying(b"new")).serve() as new,
        run_edge(engine) as edge,
    ):
        edge.register(old.address)
        edge.register(new.address, service="next")
        async with h2_connect(edge.public) as client:
            assert await who(client, (b"x-canary", b"yes")) == "old", "there is no route yet"
            edge.configure(routes=[CANARY])
            assert await who(client, (b"x-canary", b"yes")) == "new"
            assert await who(client, (b"x-canary", b"no")) == "old"
            assert await who(client) == "old"
            edge.configure()
            assert await who(client, (b"x-canary", b"yes")) == "old", "and none any more"
        calls = await edge.settled()
        assert [call.route.service for call in calls if call.route] == ["echo", "next", "echo", "echo", "echo"]


async def test_the_first_route_that_matches_is_taken(engine: str) -> None:
    routes = [
        {"match": {"methods": [OTHER_METHOD], "headers": {"x-v": {"regex": "[0-9]+"}}}, "to": [{"service": "second"}]},
        {"match": {"methods": [f"{ECHO}/*"], "headers": {"x-v": {"prefix": "1"}}}, "to": [{"service": "third"}]},
        {"match": {"headers": {"x-v": {"present": False}}, "listener": "internal"}, "to": [{"service": "second"}]},
    ]
    async with (
        H2Upstream(saying(b"a")).serve() as a,
        H2Upstream(saying(b"b")).serve() as b,
        H2Upstream(saying(b"c")).serve() as c,
        run_edge(engine) as edge,
    ):
        edge.register(a.address)
        edge.register(b.address, service="second")
        edge.register(c.address, service="third")
        edge.configure(routes=routes)
        async with h2_connect(edge.public) as client, h2_connect(edge.internal) as inside:
            assert await who(client, (b"x-v", b"12"), method=OTHER_METHOD) == "b"
            assert await who(client, (b"x-v", b"1x"), method=OTHER_METHOD) == "c"
            assert await who(client, (b"x-v", b"12")) == "c"
            assert await who(client, (b"x-v", b"2")) == "a"
            assert await who(client) == "a"
            assert await who(inside) == "b"
            assert await who(client, (b"x-v", b"x"), (b"x-v", b"1")) == "c", "the last value counts"
        await edge.settled()


async def test_weights_are_exact_over_every_round(engine: str) -> None:
    to = [{"service": "echo", "weight": 9}, {"service": "next", "weight": 1}]
    async with (
        H2Upstream(saying(b"old")).serve() as old,
        H2Upstream(saying(b"new")).serve() as new,
        run_edge(engine) as edge,
    ):
        edge.register(old.address)
        edge.register(new.address, service="next")
        edge.configure(routes=[{"name": "canary", "match": {"methods": [METHOD]}, "to": to}])
        async with h2_connect(edge.public) as client:
            for _ in range(3):
                assert Counter([await who(client) for _ in range(10)]) == {"old": 9, "new": 1}
            # What happens elsewhere neither favours nor starves the canary.
            seen = []
            for number in range(20):
                edge.register("127.0.0.1:1", service=f"elsewhere-{number}", grpc_service=f"else.V{number}")
                seen.append(await who(client))
            assert Counter(seen) == {"old": 18, "new": 2}
            to[0]["weight"], to[1]["weight"] = 1, 1
            edge.configure(routes=[{"name": "canary", "match": {"methods": [METHOD]}, "to": to}])
            assert Counter([await who(client) for _ in range(10)]) == {"old": 5, "new": 5}
            # A canary without an instance costs no call.
            edge.deregister(new.address)
            assert Counter([await who(client) for _ in range(4)]) == {"old": 4}
        await edge.settled()


async def test_sticky_callers_stay_where_they_are(engine: str) -> None:
    async with (
        H2Upstream(saying(b"old")).serve() as old,
        H2Upstream(saying(b"new")).serve() as new,
        run_edge(engine) as edge,
    ):
        edge.register(old.address)
        edge.register(new.address, service="next")

        async def users(client: H2Client, share: int) -> set[int]:
            to = [{"service": "echo", "weight": 100 - share}, {"service": "next", "weight": share}]
            edge.configure(routes=[{"match": {"methods": [METHOD]}, "to": to, "sticky": "x-user"}])
            return {number for number in range(60) if await who(client, (b"x-user", b"u%d" % number)) == "new"}

        async with h2_connect(edge.public) as client:
            few, more = await users(client, 20), await users(client, 50)
            assert 0 < len(few) < len(more) < 60
            assert few < more, "who was with the canary stays with it while it grows"
            assert await users(client, 20) == few
            assert Counter([await who(client) for _ in range(10)]) == {"old": 8, "new": 2}, "without it, by turns"
        await edge.settled()


async def test_a_subset_is_the_instances_with_its_labels(engine: str) -> None:
    async with (
        H2Upstream(saying(b"v1")).serve() as one,
        H2Upstream(saying(b"v2")).serve() as two,
        run_edge(engine) as edge,
    ):
        edge.register(one.address, version="1.0", metadata={"ring": "blue"})
        edge.register(two.address, version="2.0", metadata={"ring": "green"})

        async def go(labels: dict[str, str]) -> Reply:
            to = [{"service": "echo", "labels": labels}]
            edge.configure(routes=[{"match": {"headers": {"x-s": {"present": True}}}, "to": to}])
            return await client.call(METHOD, b"?", metadata=((b"x-s", b""),))

        async with h2_connect(edge.public) as client:
            for _ in range(3):
                assert (await go({"version": "2.0"})).messages == [b"v2"]
                assert (await go({"ring": "blue", "version": "1.0"})).messages == [b"v1"]
            nobody = await go({"ring": "blue", "version": "2.0"})
            assert (nobody.status, nobody.reason) == (outcome.UNAVAILABLE, "no_endpoint")
            assert Counter([await who(client) for _ in range(4)]) == {"v1": 2, "v2": 2}
        await edge.settled()


async def test_a_service_that_is_not_registered_is_no_error_but_has_no_endpoint(engine: str) -> None:
    async with H2Upstream(echo).serve() as upstream, run_edge(engine) as edge:
        edge.register(upstream.address)
        edge.configure(routes=[{"match": {"methods": [OTHER_METHOD]}, "to": [{"service": "nobody"}]}, CANARY])
        async with h2_connect(edge.public) as client:
            assert (await client.call(METHOD)).status == 0
            answer = await client.call(OTHER_METHOD)
            assert (answer.status, answer.reason) == (outcome.UNAVAILABLE, "no_endpoint")
            assert "nobody" in answer.message
        await edge.settled()


async def test_a_route_exposes_nothing_but_exposure_does(engine: str) -> None:
    async with (
        H2Upstream(saying(b"old")).serve() as old,
        H2Upstream(saying(b"new")).serve() as new,
        run_edge(engine) as edge,
    ):
        edge.register(old.address)
        edge.register(new.address, service="next", public=False)
        canary = {"match": {"methods": [METHOD]}, "to": [{"service": "next"}]}
        edge.configure(routes=[canary])
        async with h2_connect(edge.public) as client, h2_connect(edge.internal) as inside:
            assert (await client.call(METHOD)).reason == "no_endpoint"
            assert await who(inside) == "new"
            edge.configure(routes=[canary], services={"next": {"exposure": "public"}})
            assert await who(client) == "new"
            edge.configure(services={"echo": {"exposure": "internal"}})
            hidden = await client.call(METHOD)
            assert (hidden.status, hidden.reason) == (outcome.UNIMPLEMENTED, "no_route")
            assert await who(inside) == "old"
            edge.configure()
            assert await who(client) == "old"
        await edge.settled()


async def test_timeouts_of_the_most_specific_place_and_the_shorter_deadline_wins(engine: str) -> None:
    async with H2Upstream(hang).serve() as upstream, run_edge(engine) as edge:
        edge.register(upstream.address)
        edge.configure(
            services={"echo": {"timeout": {"max_seconds": 0.2}}},
            methods={OTHER_METHOD: {"timeout": {"default_seconds": 0.05, "max_seconds": 30}}},
        )
        async with h2_connect(edge.public) as client:
            for metadata, method, seconds in (
                ((), METHOD, 0.2),
                (((b"grpc-timeout", b"9S"),), METHOD, 0.2),
                (((b"grpc-timeout", b"100m"),), METHOD, 0.1),
                ((), OTHER_METHOD, 0.05),
                (((b"grpc-timeout", b"150m"),), OTHER_METHOD, 0.15),
            ):
                answer = await client.call(method, b"x", metadata=metadata)
                assert (answer.status, answer.reason) == (outcome.DEADLINE_EXCEEDED, "deadline_exceeded")
                assert f"deadline of {seconds:.3f} s" in answer.message or engine == "aio"
        calls = await edge.settled()
        spans = [round(call.deadline - call.started_at, 2) for call in calls if call.deadline]
        assert spans == [0.2, 0.2, 0.1, 0.05, 0.15]


async def test_limits_of_messages_and_headers(engine: str) -> None:
    async with H2Upstream(echo).serve() as upstream, run_edge(engine, limits=Limits(max_message_bytes=8192)) as edge:
        edge.register(upstream.address)
        edge.configure(
            methods={OTHER_METHOD: {"limits": {"max_message_bytes": 2048, "max_header_bytes": 1024}}},
            edge={"limits": {"max_message_bytes": 4096}},
        )
        async with h2_connect(edge.public) as client:
            assert (await client.call(METHOD, b"x" * 3000, metadata=((b"x-big", b"y" * 2000),))).status == 0
            for method, size in ((METHOD, 5000), (OTHER_METHOD, 3000)):
                answer = await client.call(method, b"x" * size)
                assert (answer.status, answer.reason) == (outcome.RESOURCE_EXHAUSTED, "message_too_large")
            assert (await client.call(OTHER_METHOD, b"x" * 2000)).status == 0
            answer = await client.call(OTHER_METHOD, b"x", metadata=((b"x-big", b"y" * 2000),))
            assert (answer.status, answer.reason) == (outcome.RESOURCE_EXHAUSTED, "headers_too_large")
            edge.configure()
            assert (await client.call(METHOD, b"x" * 5000)).status == 0
        await edge.settled()


async def test_calls_in_flight_are_counted_where_the_limit_stands(engine: str) -> None:
    release = asyncio.Event()

    async def script(stream: Stream) -> None:
        await release.wait()
        await echo(stream)

    async with H2Upstream(script).serve() as upstream, run_edge(engine) as edge:
        edge.register(upstream.address)
        limit = {"echo": {"limits": {"max_calls_in_flight": 2}}}
        edge.configure(services=limit, methods={OTHER_METHOD: {"limits": {"max_calls_in_flight": 1}}})
        async with h2_connect(edge.public) as client:
            held = [asyncio.ensure_future(client.call(METHOD, b"x")) for _ in range(2)]
            await upstream.until_streams(2)
            edge.configure(services=limit)  # what is in flight stays counted
            answer = await client.call(f"/{ECHO}/Third", b"x")
            assert (answer.status, answer.reason) == (outcome.UNAVAILABLE, "overloaded")
            assert "services.echo" in answer.message
            release.set()
            assert [one.status for one in await asyncio.gather(*held)] == [0, 0]
            assert (await client.call(METHOD, b"x")).status == 0
        await edge.settled()


async def test_breaker_options_change_and_the_breaker_remembers(engine: str) -> None:
    async def fail(stream: Stream) -> None:
        await stream.until(lambda: stream.ended)
        await reply(stream, code=outcome.UNAVAILABLE)

    async with H2Upstream(fail).serve() as upstream, run_edge(engine) as edge:
        (endpoint,) = edge.register(upstream.address)
        async with h2_connect(edge.public) as client:
            for _ in range(3):
                await client.call(METHOD, b"x")
            edge.configure(services={"echo": {"breaker": {"minimum_calls": 4, "open_seconds": 3600}}})
            await client.call(METHOD, b"x")
            assert (await client.call(METHOD, b"x")).reason == "breaker_open", "the calls before the change count"
            edge.configure(services={"echo": {"breaker": {"minimum_calls": 9, "open_seconds": 3600}}})
            assert (await client.call(METHOD, b"x")).reason == "breaker_open"
            edge.configure(services={"echo": {"breaker": {"enabled": False}}})
            assert (await client.call(METHOD, b"x")).reason == ""
            assert not endpoint.breaker.state
        await edge.settled()


async def test_a_route_may_carry_metadata_of_any_kind(engine: str) -> None:
    """What does not decode, or is long, is no match and no error."""
    route = {"match": {"headers": {"x-v": {"regex": "(a|aa)+$"}}}, "to": [{"service": "next"}]}
    async with H2Upstream(echo).serve() as upstream, run_edge(engine) as edge:
        edge.register(upstream.address)
        edge.register(service="next")
        edge.configure(routes=[route])
        async with h2_connect(edge.public) as client:
            for value in (b"a" * 5000, b"aaa!", b"", b"~" * 300):
                assert (await client.call(METHOD, b"x", metadata=((b"x-v", value),))).status == 0
            assert (await client.call(METHOD, b"x", metadata=((b"x-v", b"aaa"),))).reason == "no_endpoint"
        await edge.settled()
