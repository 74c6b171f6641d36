"""Calls by name: found, balanced, retried, refused with a reason, on real servers and a real registry."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import time
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

import mesh
from mesh.config.model import View
from mesh.context import CallContext, entered
from mesh.edge.policy.reading import PolicyError
from mesh.errors import UsageError
from mesh.resilience import outcome
from mesh.resilience.policy import HedgeOptions
from mesh.sdk.mesh import Mesh
from mesh.telemetry.spans import CLIENT, SpanRecord
from tests.unit.mesh.sdk.helpers import LAB, PATIENCE, Control, Lab, LabStub, add_lab, told, until
from tests.unit.mesh.sdk.policies import publish

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
# grpc core sends deadlines in few digits, rounded up.
ROUNDED = 0.2
ABOVE = CallContext("order-7", TRACE, "00f067aa0ba902b7")


class Fleet:
    """Some instances of `labs`, and a client."""

    def __init__(self, control: Control) -> None:
        self.control = control
        self.labs: dict[str, Lab] = {}
        self.meshes: dict[str, Mesh] = {}
        self._stack = contextlib.AsyncExitStack()

    async def add(self, name: str, **options: Any) -> Lab:
        lab = self.labs[name] = Lab(name)
        options = {"instance_id": name, "drain_seconds": 1.0, "grace_seconds": 0.1, **options}
        one = mesh.join("labs", control=self.control.address, telemetry=False, **options)
        self.meshes[name] = one
        await self._stack.enter_async_context(one)
        one.add(add_lab, lab)
        await one.start()
        await one.registered()
        return lab

    async def client(self, **options: Any) -> Mesh:
        one = mesh.join("caller", control=self.control.address, telemetry=False, **options)
        await self._stack.enter_async_context(one)
        return one

    async def __aenter__(self) -> Fleet:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()


@contextlib.asynccontextmanager
async def fleet(control: Control, *names: str, **options: Any) -> AsyncIterator[tuple[Fleet, Mesh, LabStub]]:
    async with Fleet(control) as made:
        for name in names:
            await made.add(name)
        client = await made.client(**options)
        stub = LabStub(client.channel("labs"))
        upstream = client._discovery.upstream("labs")  # type: ignore[union-attr] # it is open
        await until(lambda: len(upstream.endpoints) == len(names) and upstream.known, "the client's view")
        yield made, client, stub


async def get(stub: LabStub, request: bytes = b'{"do": "tell"}', **more: Any) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(await stub.Get(request, **more))
    return answer


def spans(client: Mesh) -> list[SpanRecord]:
    return [span for span in client._spans.take(1000) if span.kind == CLIENT]


def codes(client: Mesh, method: str = "Get") -> dict[str, float]:
    stats = client._called.of(f"{LAB}/{method}", "labs")
    return {outcome.code_name(code): sum(counts[:-1]) for code, counts in stats.by_code.items()}


def settled(client: Mesh) -> bool:
    """Tell whether nothing is counted as under way."""
    assert client._discovery is not None
    upstreams = client._discovery.upstreams()
    return not (
        any(stats.in_flight for stats in client._called.all())
        or any(one.in_flight for one in upstreams)
        or any(endpoint.in_flight for one in upstreams for endpoint in one.endpoints)
    )


async def requests(*messages: bytes) -> AsyncIterator[bytes]:
    for message in messages:
        yield message


async def test_all_kinds_of_calls(control: Control) -> None:
    async with fleet(control, "one") as (_, client, stub):
        assert (await get(stub))["name"] == "one"
        assert len([reply async for reply in stub.List(told(times=3))]) == 3
        call = stub.List(told(times=1))
        assert json.loads(await call.read())["name"] == "one"
        assert await call.read() is grpc.aio.EOF
        assert json.loads(await stub.Sum(requests(told(), told())))["count"] == 2
        assert json.loads(await stub.Sum(iter((told(), told(), told()))))["count"] == 3
        writing = stub.Sum()
        await writing.write(told())
        await writing.done_writing()
        assert json.loads(await writing)["count"] == 1
        chat = stub.Chat()
        await chat.write(told())
        assert json.loads(await chat.read())["name"] == "one"
        await chat.done_writing()
        assert await chat.read() is grpc.aio.EOF
        assert len([reply async for reply in stub.Chat(requests(told(), told()))]) == 2
        for made in (call, writing, chat):
            assert made.done()
            assert not made.cancelled()
            assert await made.code() is grpc.StatusCode.OK
            assert await made.details() == ""
        assert codes(client) == codes(client, "Sum") | {"OK": 1}
        assert settled(client)


async def test_calls_that_are_awaited_late_or_twice(control: Control) -> None:
    async with fleet(control, "one") as (_, _client, stub):
        call = stub.Get(told(), timeout=20)
        ended: list[Any] = []
        call.add_done_callback(ended.append)
        assert 0 < call.time_remaining() <= 20
        assert await call.code() is grpc.StatusCode.OK
        assert call.done()
        assert ended == [call]
        call.add_done_callback(ended.append)
        assert len(ended) == 2
        assert await call == await call
        assert await call.initial_metadata() is not None
        assert await call.trailing_metadata() is not None
        await call.wait_for_connection()
        assert not call.cancel()
        replies = await asyncio.gather(*(stub.Get(told()) for _ in range(20)))
        assert len(replies) == 20


async def test_a_call_carries_what_the_work_is_about(control: Control) -> None:
    async with fleet(control, "one") as (_, client, stub):
        with entered(ABOVE):
            known = await asyncio.create_task(get(stub))
        assert (known["correlation"], known["trace"], known["sampled"]) == ("order-7", TRACE, True)
        (span,) = spans(client)
        assert (span.trace_id, span.parent_span_id, span.correlation_id) == (TRACE, ABOVE.span_id, "order-7")
        assert (span.name, span.rpc_status_code, span.peer_service) == (f"{LAB}/Get", "OK", "labs")
        assert span.attributes["mesh.instance"] == "one"
        sent = dict(map(tuple, known["metadata"]))
        assert sent["traceparent"] == f"00-{TRACE}-{span.span_id}-01"
        # Outside of any work a call begins a conversation.
        other = await get(stub)
        assert other["correlation"] == other["trace"] != TRACE
        with entered(CallContext("order-8", TRACE, "1" * 16, sampled=False)):
            assert not (await get(stub))["sampled"]


async def test_metadata_of_the_caller_goes_with_it(control: Control) -> None:
    async with fleet(control, "one") as (_, _client, stub):
        given = (("x-tenant", "blue"), ("x-correlation-id", "mine"), ("traceparent", "not this one"))
        known = await get(stub, metadata=given)
        sent = [tuple(pair) for pair in known["metadata"]]
        assert ("x-tenant", "blue") in sent
        assert known["correlation"] == "mine"
        assert [value for name, value in sent if name == "x-correlation-id"] == ["mine"]
        assert (await get(stub, metadata=grpc.aio.Metadata(("x-tenant", "red"))))["name"]


async def test_deadlines_shrink_along_the_chain(control: Control) -> None:
    async with fleet(control, "one") as (_, _client, stub):
        now = time.monotonic()
        with entered(CallContext("c", TRACE, "1" * 16, deadline=now + 5.0)):
            assert 0 < (await get(stub))["left"] <= 5 + ROUNDED
            assert 0 < (await get(stub, timeout=2.0))["left"] <= 2 + ROUNDED
            assert 2 < (await get(stub, timeout=50.0))["left"] <= 5 + ROUNDED
        assert (await get(stub, timeout=3.0))["left"] <= 3 + ROUNDED
        assert (await get(stub))["left"] is None
        with (
            entered(CallContext("c", TRACE, "1" * 16, deadline=now - 1.0)),
            pytest.raises(grpc.aio.AioRpcError) as caught,
        ):
            await stub.Get(told())
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert dict(caught.value.trailing_metadata() or ())["mesh-reason"] == "deadline_exceeded"


async def test_a_deadline_ends_a_call(control: Control) -> None:
    async with fleet(control, "one") as (_, client, stub):
        for call in (stub.Get(told("wait"), timeout=0.1), stub.Sum(requests(told("wait")), timeout=0.1)):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call
            assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            assert await call.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        with pytest.raises(grpc.aio.AioRpcError):
            await stub.List(told("wait"), timeout=0.1).read()
        await until(lambda: settled(client))


def _last_is(lab: Lab, who: str) -> bool:
    return lab.cancelled[-1:] == [who]


async def test_cancelling(control: Control) -> None:
    async with fleet(control, "one") as (made, client, stub):
        lab = made.labs["one"]
        for who, call in {
            "unary": stub.Get(told("wait", who="unary")),
            "replies": stub.List(told("wait", who="replies")),
            "both": stub.Chat(requests(told("wait", who="both"))),
        }.items():
            await until(lambda: lab.waiting, who)
            assert call.cancel()
            assert not call.cancel()
            assert call.cancelled()
            with pytest.raises(asyncio.CancelledError):
                await (call if who == "unary" else call.read())
            await until(functools.partial(_last_is, lab, who), who)
        task = asyncio.create_task(get(stub, told("wait", who="task")))
        await until(lambda: lab.waiting)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until(lambda: lab.cancelled[-1:] == ["task"])
        assert codes(client) == {"CANCELLED": 2}
        await until(lambda: settled(client))


async def test_calls_are_spread(control: Control) -> None:
    async with fleet(control, "one", "two", "three") as (_, _client, stub):
        counted = Counter([(await get(stub))["name"] for _ in range(30)])
        assert counted == {"one": 10, "two": 10, "three": 10}


async def test_instances_come_and_go(control: Control) -> None:
    async with fleet(control, "one") as (made, _client, stub):
        await made.add("two")

        async def two() -> bool:
            return bool((await get(stub))["name"] == "two")

        await until(two, "a call to the new one")
        leaving = asyncio.create_task(made.meshes["one"].leave())
        while not leaving.done():
            assert (await get(stub))["name"]
        await leaving
        assert {(await get(stub))["name"] for _ in range(10)} == {"two"}


async def test_a_call_on_an_instance_that_leaves_is_finished(control: Control) -> None:
    async with fleet(control) as (made, client, stub):
        lab = await made.add("one", grace_seconds=30.0)
        upstream = client._discovery.upstream("labs")  # type: ignore[union-attr]
        await until(lambda: upstream.endpoints)
        call = stub.Get(told("wait"))
        await until(lambda: lab.waiting)
        leaving = asyncio.create_task(made.meshes["one"].leave())
        await until(lambda: not upstream.endpoints)
        lab.gate.set()
        assert json.loads(await call)["name"] == "one"
        await leaving
        assert settled(client)


async def test_dead_instances_are_stepped_over(control: Control) -> None:
    async with fleet(control, "one", "two") as (made, client, stub):
        server = made.meshes["one"]._server
        assert server is not None
        await server.stop(0)  # without leaving the registry
        assert [(await get(stub))["name"] for _ in range(6)] == ["two"] * 6
        assert [json.loads(reply)["name"] async for reply in stub.List(told())] == ["two"] * 2
        assert json.loads(await stub.Sum(requests(told())))["name"] == "two"
        assert codes(client) == {"OK": 6}
        await until(lambda: settled(client))


async def test_nobody_is_left(control: Control) -> None:
    async with fleet(control, "one") as (made, _client, stub):
        server = made.meshes["one"]._server
        assert server is not None
        await server.stop(0)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Get(told())
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert (caught.value.details() or "").startswith("instance one of labs ")
        assert dict(caught.value.trailing_metadata() or ())["mesh-reason"] in (
            "upstream_connect_failed",
            "upstream_reset",
        )


async def test_a_service_that_nobody_knows(control: Control) -> None:
    async with fleet(control, "one") as (_, client, _stub):
        stub = LabStub(client.channel("lab"))
        call = stub.Get(told())
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert caught.value.details() == "no instance of lab is registered now; did you mean labs?"
        assert dict(caught.value.trailing_metadata() or ()) == {"mesh-reason": "no_endpoint"}
        assert await call.code() is grpc.StatusCode.UNAVAILABLE
        assert await call.details() == caught.value.details()
        with pytest.raises(grpc.aio.AioRpcError):
            await stub.List(told()).read()
        with pytest.raises(grpc.aio.AioRpcError):
            await stub.Sum(requests(told()))
        with pytest.raises(UsageError, match="no name of a service"):
            client.channel("Not A Name")


async def test_a_service_that_has_no_such_method(control: Control) -> None:
    async with fleet(control, "one") as (_, client, _stub):
        wrong = client.channel("labs").unary_unary("/shop.v1.Orders/CreateOrder")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await wrong(b"")
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
        assert caught.value.details() == "labs does not serve shop.v1.Orders; it has lab.v1.Lab"


async def test_an_instance_that_wants_no_calls_gets_none(control: Control) -> None:
    async with fleet(control, "one") as (made, client, stub):
        made.meshes["one"].ready.clear("too much to do")

        async def refused() -> bool:
            with contextlib.suppress(grpc.aio.AioRpcError):
                await stub.Get(told())
                return False
            return True

        await until(refused)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Get(told())
        assert caught.value.details() == "no instance of labs is serving now"
        # Who is patient waits.
        call = stub.Get(told(), wait_for_ready=True, timeout=PATIENCE)
        stream = stub.List(told(), wait_for_ready=True, timeout=PATIENCE)
        await asyncio.sleep(0)
        assert not call.done()
        made.meshes["one"].ready.set()
        assert json.loads(await call)["name"] == "one"
        assert json.loads(await stream.read())["name"] == "one"
        stream.cancel()
        await until(lambda: settled(client))


async def test_a_call_before_the_first_word_of_the_registry_waits(control: Control) -> None:
    async with Fleet(control) as made:
        await made.add("one")
        client = await made.client()
        stub = LabStub(client.channel("labs"))
        assert (await get(stub))["name"] == "one"
        other = await made.client()
        assert json.loads(await LabStub(other.channel("labs")).List(told()).read())["name"] == "one"


async def test_without_a_control_plane_a_call_ends_at_its_deadline() -> None:
    async with mesh.join("caller", control="127.0.0.1:9", telemetry=False) as client:
        stub = LabStub(client.channel("labs"))
        for call in (stub.Get(told(), timeout=0.1), stub.Sum(requests(told()), timeout=0.1)):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call
            assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            assert "no control service has answered at 127.0.0.1:9" in (caught.value.details() or "")


async def test_without_a_control_plane_a_call_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mesh.sdk.channel.PATIENCE", 0.1)
    async with mesh.join("caller", control="127.0.0.1:9", telemetry=False) as client:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await LabStub(client.channel("labs")).Get(told())
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert "it is not known where labs is" in (caught.value.details() or "")
        waiting = LabStub(client.channel("labs")).Get(told(), timeout=PATIENCE)
        assert waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert settled(client)


async def test_errors_of_an_instance_are_the_caller_s(control: Control) -> None:
    async with fleet(control, "one") as (_, client, stub):
        for call in (stub.Get(told("abort", code="NOT_FOUND")), stub.Sum(requests(told("abort", code="NOT_FOUND")))):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call
            assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.NOT_FOUND, "as told")
            assert await call.code() is grpc.StatusCode.NOT_FOUND
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async for _reply in stub.List(told("abort", code="NOT_FOUND")):
                pass
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        assert codes(client) == {"NOT_FOUND": 1}


async def test_a_policy_has_failed_calls_made_again(control: Control) -> None:
    await publish(control, {"services": {"labs": {"retry": {"on": ["UNAVAILABLE"], "backoff_base_seconds": 0.001}}}})
    async with fleet(control, "one", "two") as (made, client, stub):
        await until(lambda: client._discovery is not None and client._discovery.release == 1)
        lab = made.labs["one"]

        async def failing(request: bytes, context: Any) -> bytes:
            lab.calls += 1
            await context.abort(grpc.StatusCode.UNAVAILABLE, "busy")
            raise AssertionError

        lab.do = failing  # type: ignore[method-assign]
        assert [(await get(stub))["name"] for _ in range(4)] == ["two"] * 4
        assert [json.loads(reply)["name"] async for reply in stub.List(told(times=1))] == ["two"]
        assert [json.loads(reply)["name"] async for reply in stub.Chat(requests(told()))] == ["two"]
        assert json.loads(await stub.Sum(requests(told(), told())))["name"] == "two"
        assert lab.calls >= 2
        found = [span for span in client._spans.take(1000) if span.correlation_id]
        attempts = [span for span in found if span.kind != CLIENT]
        assert {span.rpc_status_code for span in attempts} >= {"UNAVAILABLE", "OK"}
        parents = {span.span_id: span for span in found if span.kind == CLIENT}
        assert all(span.parent_span_id in parents for span in attempts)
        assert all(parents[span.parent_span_id].rpc_status_code == "OK" for span in attempts)
        assert codes(client) == {"OK": 4}
        # An instance that says so is not asked again.
        pushback = [["grpc-retry-pushback-ms", "-1"]]
        with pytest.raises(grpc.aio.AioRpcError):
            await stub.Get(told("abort", code="UNAVAILABLE", trailers=pushback))
        await until(lambda: settled(client))


async def test_a_policy_gives_attempts_a_time(control: Control) -> None:
    await publish(control, {"services": {"labs": {"retry": {"per_try_seconds": 0.1, "backoff_base_seconds": 0.001}}}})
    async with fleet(control, "one", "two") as (made, client, stub):
        await until(lambda: client._discovery is not None and client._discovery.release == 1)
        made.labs["two"].gate.set()  # the other one hangs
        names = [(await get(stub, told("wait"), timeout=PATIENCE))["name"] for _ in range(4)]
        assert names == ["two"] * 4
        await until(lambda: settled(client))


async def test_a_breaker_opens_and_a_call_fails_at_once(control: Control) -> None:
    breaker = {"minimum_calls": 3, "open_seconds": 600}
    await publish(control, {"services": {"labs": {"breaker": breaker}}})
    async with fleet(control, "one") as (made, client, stub):
        await until(lambda: client._discovery is not None and client._discovery.release == 1)
        for _ in range(3):
            with pytest.raises(grpc.aio.AioRpcError):
                await stub.Get(told("abort", code="INTERNAL"))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Get(told())
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert dict(caught.value.trailing_metadata() or ()) == {"mesh-reason": "breaker_open"}
        assert "circuit breakers are open" in (caught.value.details() or "")
        assert made.labs["one"].calls == 3
        # Nothing of it is lost when the policy changes, and another one closes it.
        await publish(control, {"services": {"labs": {"breaker": {**breaker, "enabled": False}}}})
        await until(lambda: client._discovery is not None and client._discovery.release == 2)
        assert (await get(stub))["name"] == "one"


async def test_other_policies(control: Control) -> None:
    policy = {
        "timeout": {"default_seconds": 5, "max_seconds": 10},
        "balancer": {"kind": "ring_hash", "hash_key": "x-tenant"},
        "outlier": {"consecutive_failures": 2, "max_ejection_share": 0.5},
        "rate_limit": {"per_second": 0.001, "burst": 30},
    }
    await publish(control, {"services": {"labs": policy}})
    async with fleet(control, "one", "two", "three") as (made, client, stub):
        await until(lambda: client._discovery is not None and client._discovery.release == 1)
        known = [await get(stub, metadata=(("x-tenant", "blue"),)) for _ in range(6)]
        assert len({one["name"] for one in known}) == 1
        assert all(0 < one["left"] <= 5 + ROUNDED for one in known)
        assert 5 < (await get(stub, timeout=50, metadata=(("x-tenant", "red"),)))["left"] <= 10 + ROUNDED
        # The one that fails twice is set aside.
        lab = made.labs[known[0]["name"]]
        for _ in range(2):
            with pytest.raises(grpc.aio.AioRpcError):
                await stub.Get(told("abort", code="INTERNAL"), metadata=(("x-tenant", "blue"),))
        assert (await get(stub, metadata=(("x-tenant", "blue"),)))["name"] != lab.name
        for _ in range(40):
            try:
                await get(stub)
            except grpc.aio.AioRpcError as error:
                caught = error
        assert caught.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert dict(caught.trailing_metadata() or ())["mesh-reason"] == "rate_limited"


async def test_routes_lead_to_canaries_and_subsets(control: Control) -> None:
    routes = [
        {
            "name": "testers",
            "match": {"headers": {"x-canary": {"exact": "yes"}}},
            "to": [{"service": "labs", "labels": {"version": "2"}}],
            "timeout": {"default_seconds": 7},
        },
        {
            "name": "canary",
            "match": {"methods": [f"{LAB}/Get"]},
            "to": [
                {"service": "labs", "weight": 3, "labels": {"version": "1"}},
                {"service": "labs", "weight": 1, "labels": {"version": "2"}},
            ],
            "sticky": "x-user",
        },
        {"match": {"listener": "public", "methods": [f"{LAB}/List"]}, "to": [{"service": "other"}]},
        {"match": {"methods": [f"{LAB}/Sum"]}, "to": [{"service": "other"}]},
    ]
    await publish(control, {"routes": routes})
    async with fleet(control) as (made, client, stub):
        await made.add("old", version="1")
        await made.add("new", version="2", labels={"track": "canary"})
        discovery = client._discovery
        assert discovery is not None
        await until(lambda: discovery.release == 1 and len(discovery.upstream("labs").endpoints) == 2)
        counted = Counter([(await get(stub))["name"] for _ in range(40)])
        assert counted == {"old": 30, "new": 10}
        testers = [await get(stub, metadata=(("x-canary", "yes"),)) for _ in range(4)]
        assert {one["name"] for one in testers} == {"new"}
        assert all(0 < one["left"] <= 7 + ROUNDED for one in testers)
        for user in range(8):
            names = {(await get(stub, metadata=(("x-user", str(user)),)))["name"] for _ in range(3)}
            assert len(names) == 1
        # What is for the public side, or leads to another service altogether, is not for who names this one.
        assert {json.loads(reply)["name"] async for reply in stub.List(told(times=1))} <= {"old", "new"}
        assert {json.loads(await stub.Sum(requests(told())))["name"] for _ in range(4)} == {"old", "new"}
        # The canary leaves: its share goes to the others.
        await made.meshes["new"].leave()
        await until(lambda: len(discovery.upstream("labs").endpoints) == 1)
        assert {(await get(stub))["name"] for _ in range(8)} == {"old"}
        assert settled(client)


async def test_routes_that_come_before_the_registry_is_known(control: Control) -> None:
    await publish(control, {"routes": [{"match": {}, "to": [{"service": "labs", "labels": {"version": "2"}}]}]})
    async with Fleet(control) as made:
        await made.add("old", version="1")
        await made.add("new", version="2")
        client = await made.client()
        stub = LabStub(client.channel("labs"))
        assert (await get(stub))["name"]
        discovery = client._discovery
        await until(lambda: discovery is not None and discovery.release == 1)
        assert {(await get(stub))["name"] for _ in range(4)} == {"new"}
        assert settled(client)


@pytest.mark.parametrize("kind", ["least_request", "peak_ewma"])
async def test_other_balancers(control: Control, kind: str) -> None:
    await publish(control, {"defaults": {"balancer": {"kind": kind}}})
    async with fleet(control, "one", "two") as (made, client, stub):
        await until(lambda: client._discovery is not None and client._discovery.release == 1)
        busy = [stub.Get(told("wait")) for _ in range(4)]
        await until(lambda: sum(lab.waiting for lab in made.labs.values()) == 4)
        assert {(await get(stub))["name"] for _ in range(20)} <= {"one", "two"}
        for lab in made.labs.values():
            lab.gate.set()
        await asyncio.gather(*busy)
        await until(lambda: settled(client))


async def test_limits_of_calls_in_flight(control: Control) -> None:
    await publish(control, {"services": {"labs": {"limits": {"max_calls_in_flight": 1}}}})
    async with fleet(control, "one") as (made, client, stub):
        await until(lambda: client._discovery is not None and client._discovery.release == 1)
        first = stub.Get(told("wait"))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Get(told())
        assert dict(caught.value.trailing_metadata() or ()) == {"mesh-reason": "overloaded"}
        made.labs["one"].gate.set()
        assert await first
        assert (await get(stub))["name"] == "one"


async def test_a_policy_that_is_none_is_reported_and_the_last_one_stays(control: Control) -> None:
    async with fleet(control, "one") as (_, client, stub):
        assert client._discovery is not None
        before = client._discovery._router.document
        with pytest.raises(PolicyError, match="must be from 1"):
            client._discovery._take(
                View(content={"services": {"labs": {"retry": {"attempts": 99}}}}, release=9), View.EMPTY
            )
        assert client._discovery._router.document is before
        assert (await get(stub))["name"] == "one"


async def test_hedges(control: Control) -> None:
    async with fleet(control, "one", "two") as (made, client, _stub):
        hedge = {f"{LAB}/Get": HedgeOptions(delay_seconds=0.02)}
        stub = LabStub(client.channel("labs", hedge=hedge))
        made.labs["two"].gate.set()  # the other one hangs
        for _ in range(4):
            assert (await get(stub, told("wait", who="slow")))["name"] == "two"
        await until(lambda: made.labs["one"].waiting == 0, "the losers' end")
        assert made.labs["one"].cancelled
        assert codes(client) == {"OK": 4}
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Get(told("abort", code="NOT_FOUND"))
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        await until(lambda: settled(client))


async def test_warming_up_and_weights(control: Control) -> None:
    async with fleet(control, "one") as (made, client, stub):
        await made.add("two", weight=300)
        upstream = client._discovery.upstream("labs")  # type: ignore[union-attr]
        await until(lambda: len(upstream.endpoints) == 2)
        counted = Counter([(await get(stub))["name"] for _ in range(40)])
        assert counted == {"one": 10, "two": 30}


async def test_zones_keep_calls(control: Control) -> None:
    async with fleet(control, zone="z1") as (made, client, stub):
        await made.add("near", zone="z1")
        await made.add("far", zone="z2")
        upstream = client._discovery.upstream("labs")  # type: ignore[union-attr]
        await until(lambda: len(upstream.endpoints) == 2)
        assert {(await get(stub))["name"] for _ in range(10)} == {"near"}
        await made.meshes["near"].leave()
        assert {(await get(stub))["name"] for _ in range(3)} == {"far"}


async def test_after_the_end_nobody_is_called(control: Control) -> None:
    async with Fleet(control) as made:
        await made.add("one")
        async with mesh.join("caller", control=control.address, telemetry=False) as client:
            stub = LabStub(client.channel("labs"))
            assert (await get(stub))["name"] == "one"
            waiting = stub.Get(told("wait"))
            await until(lambda: made.labs["one"].waiting)
        with pytest.raises(asyncio.CancelledError):
            await waiting
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Get(told())
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert settled(client)


async def test_tls_whose_files_are_of_no_use(control: Control, monkeypatch: pytest.MonkeyPatch) -> None:
    async with fleet(control) as (made, client, stub):
        await made.add("one", labels={"tls": "on"})
        discovery = client._discovery
        assert discovery is not None
        await until(lambda: discovery.upstream("labs").endpoints)
        monkeypatch.setenv("MESH_CA", "/nowhere/ca.pem")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Get(told())
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert "/nowhere/ca.pem" in (caught.value.details() or "")
        monkeypatch.delenv("MESH_CA")
        assert settled(client)


async def test_a_channel_looks_like_one_of_grpc(control: Control) -> None:
    async with fleet(control, "one") as (_, client, _stub):
        async with client.channel("labs") as channel:
            await channel.channel_ready()
            assert channel.get_state() is grpc.ChannelConnectivity.READY
            assert isinstance(channel, grpc.aio.Channel)
        await channel.close()
        assert (await get(LabStub(channel)))["name"] == "one"
        nobody = client.channel("nobody")
        assert nobody.get_state() is grpc.ChannelConnectivity.TRANSIENT_FAILURE
