"""Releases of `mesh.edge` reach an edge that carries calls: none is lost, and a bad one changes nothing."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from mesh.api.config import v1
from mesh.api.registry.v1 import EXPOSURE_PUBLIC, Instance, RegisterRequest
from mesh.edge import EDGE_SERVICE
from mesh.runtime import Process
from proxy.edge import Edge, run_edge
from proxy.engines.engine import PUBLIC
from proxy.options import EdgeOptions
from services.config.gray import Rule, selects
from services.config.layers import Target
from tests.conformance.h2_client import h2_connect
from tests.conformance.h2_peer import HANG_SECONDS, Stream
from tests.conformance.h2_upstream import H2Upstream, reply
from tests.conformance.harness import ECHO, METHOD, connect, unary
from tests.unit.services.config.helpers import Announced, Control, serving

TO_NEXT = f"routes: [{{match: {{methods: [{ECHO}/*]}}, to: [{{service: next}}]}}]"
BAD = "routes: [{match: {}, to: [{service: next, weight: 0}]}]"


async def say_name(stream: Stream) -> None:
    await stream.until(lambda: stream.ended)
    own = stream.peer.transport.get_extra_info("sockname")[1]
    await reply(stream, b"%d" % own)


async def register(control: Control, service: str, address: str) -> None:
    one = Instance(service=service, instance_id=service, endpoints=[address], weight=100, grpc_services=[ECHO])
    one.exposure = EXPOSURE_PUBLIC
    await control.registry.Register(RegisterRequest(instance=one, ttl_seconds=600))


def options(engine: str, control: str, state: Path | None = None, name: str = "e1") -> EdgeOptions:
    anywhere: Any = dict.fromkeys(("public", "internal", "admin"), "127.0.0.1:0")
    kept = str(state) if state is not None else ""
    return EdgeOptions(control=control, engine=engine, access_log="off", instance_id=name, state=kept, **anywhere)


@contextlib.asynccontextmanager
async def running(told: EdgeOptions) -> AsyncIterator[dict[str, str]]:
    """Run a whole edge, registered as it would be, in this process; yields its addresses."""
    process = Announced()
    edge = asyncio.create_task(run_edge(told, process))
    await asyncio.wait((edge, process.addresses), return_when=asyncio.FIRST_COMPLETED)
    try:
        yield dict(process.addresses.result())
    finally:
        process.stop.set()
        await edge


async def publish(control: Control, text: str, state: int = v1.APPLIED_STATE_APPLIED) -> v1.Applied:
    """Publish a document and return what the edge made of it."""
    await control.put(text, "mesh.edge")
    release = await control.publish("mesh.edge")
    return await reported(control, release.number, state)


async def reported(control: Control, release: int, state: int) -> v1.Applied:
    request = v1.ListAppliedRequest(application="mesh.edge", limit=10)
    async with asyncio.timeout(HANG_SECONDS):
        while True:
            for one in (await control.config.ListApplied(request)).applied:
                if (one.instance, one.release, one.state) == ("e1", release, state):
                    found: v1.Applied = one
                    return found
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("engine", ["aio", "wire"])
async def test_reload_under_load_loses_no_call_and_a_rejected_release_changes_nothing(
    engine: str, tmp_path: Path
) -> None:
    async with (
        H2Upstream(say_name).serve() as old,
        H2Upstream(say_name).serve() as new,
        serving(tmp_path) as control,
    ):
        await register(control, "echo", old.address)
        await register(control, "next", new.address)
        names = {old.address.rpartition(":")[2].encode(): "old", new.address.rpartition(":")[2].encode(): "new"}
        async with running(options(engine, control.address)) as addresses, connect(addresses[PUBLIC]) as channel:
            call, stop = unary(channel), asyncio.Event()
            counts: dict[str, int] = {"old": 0, "new": 0}

            async def load() -> None:
                while not stop.is_set():
                    counts[names[await call(b"?")]] += 1

            loads = [asyncio.create_task(load()) for _ in range(4)]
            try:
                for _ in range(3):
                    await publish(control, TO_NEXT)
                    assert names[await call(b"?")] == "new"
                    await publish(control, "{}")
                    assert names[await call(b"?")] == "old"
                await publish(control, TO_NEXT)
                rejected = await publish(control, BAD, v1.APPLIED_STATE_REJECTED)
                assert rejected.error == "routes[0].to: the weights add up to 0: no call could go anywhere"
                assert names[await call(b"?")] == "new", "the last good one stays in force"
                await control.config.Rollback(v1.RollbackRequest(application="mesh.edge", to_release=2, author="ann"))
                await reported(control, 9, v1.APPLIED_STATE_APPLIED)
                assert names[await call(b"?")] == "old"
            finally:
                stop.set()
                await asyncio.gather(*loads)  # raises where a call failed
            assert min(counts.values()) > 0


async def test_a_gray_release_is_for_the_edges_that_have_its_labels(tmp_path: Path) -> None:
    async with serving(tmp_path) as control, running(options("wire", control.address)):
        await publish(control, "{}")
        await control.put(TO_NEXT, "mesh.edge")
        await control.publish("mesh.edge", gray_rule=v1.GrayRule(labels={"engine": "aio"}))
        await control.config.Abort(v1.AbortRequest(application="mesh.edge", author="ann"))
        await control.put(f"{TO_NEXT}\nservices: {{}}", "mesh.edge")
        await control.publish("mesh.edge", gray_rule=v1.GrayRule(labels={"engine": "wire"}))
        assert (await reported(control, 3, v1.APPLIED_STATE_APPLIED)).error == ""


async def test_a_gray_release_by_percent_grows_until_it_is_everybodys(tmp_path: Path) -> None:
    names = [f"edge-{number}" for number in range(4)]
    shares = (25, 50, 75, 100)

    def chosen(percent: float) -> set[str]:
        rule = Rule(percent)
        return {name for name in names if selects(rule, Target(EDGE_SERVICE, "", name), "mesh.edge/2")}

    # The hash spreads many evenly, four not quite: there must be something to see at each step.
    while len({len(chosen(share)) for share in shares}) < len(shares):
        names = [f"{name}x" for name in names]
    async with serving(tmp_path) as control, contextlib.AsyncExitStack() as stack:
        for name in names:
            await stack.enter_async_context(running(options("wire", control.address, name=name)))
        await control.put("{}", "mesh.edge")
        await control.publish("mesh.edge")
        await control.put(TO_NEXT, "mesh.edge")
        await control.publish("mesh.edge", gray_rule=v1.GrayRule(percent=shares[0]))
        for share in shares:
            if share > shares[0]:
                grown = v1.PromoteRequest(application="mesh.edge", author="ann", gray_rule=v1.GrayRule(percent=share))
                await control.config.Promote(grown)
            async with asyncio.timeout(HANG_SECONDS):
                while await running_release(control, 2) != chosen(share):
                    await asyncio.sleep(0.01)
            assert await running_release(control, 1) == set(names) - chosen(share)


async def running_release(control: Control, release: int) -> set[str]:
    reply = await control.config.ListApplied(v1.ListAppliedRequest(application="mesh.edge", limit=10))
    return {one.instance for one in reply.applied if (one.release, one.state) == (release, v1.APPLIED_STATE_APPLIED)}


@pytest.mark.parametrize("engine", ["aio", "wire"])
async def test_bounds_that_an_engine_takes_at_its_start_alone_are_named(engine: str, tmp_path: Path) -> None:
    bounds = "edge: {protection: {resets_per_second: 9, idle_seconds: 77}}"
    named = "edge.protection.resets_per_second, edge.protection.idle_seconds: not in force, as the engine of this edge"
    async with serving(tmp_path) as control, running(options(engine, control.address)):
        applied = await publish(control, bounds)
        assert applied.error.startswith(named) if engine == "aio" else applied.error == ""
        # The same again under another number, and after one that is rejected.
        await publish(control, BAD, v1.APPLIED_STATE_REJECTED)
        again = await publish(control, bounds)
        assert again.error == applied.error
        assert (await publish(control, "{}")).error == ""


async def test_an_edge_starts_with_its_last_good_release(tmp_path: Path) -> None:
    """While the control plane is away, and when the release that is out is one that it rejects."""
    data, state = tmp_path / "data", tmp_path / "state"
    data.mkdir()
    async with serving(data) as control:
        async with running(options("wire", control.address, state)):
            await publish(control, TO_NEXT)
            await publish(control, BAD, v1.APPLIED_STATE_REJECTED)
        async with _edge(options("wire", control.address, state)) as edge:
            await edge.configuration.known()
            await reported(control, 2, v1.APPLIED_STATE_REJECTED)
            assert (edge.configuration.release, edge.configuration.rejected) == (1, 2)
            assert len(edge.state.document.routes) == 1
    async with _edge(options("wire", control.address, state)) as edge:
        await edge.configuration.known()
        assert (edge.configuration.release, len(edge.state.document.routes)) == (1, 1)
        assert not edge.configuration.connected


async def test_an_edge_without_a_state_folder_starts_with_its_own_options() -> None:
    async with _edge(options("wire", "127.0.0.1:1")) as edge:
        assert edge.configuration.release == 0


async def test_a_control_plane_without_configuration_is_no_obstacle(caplog: pytest.LogCaptureFixture) -> None:
    server = grpc.aio.server()
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with _edge(options("wire", f"127.0.0.1:{port}")) as edge:
            async with asyncio.timeout(HANG_SECONDS):
                await edge.configuration.known()
            assert edge.configuration.release == 0
    finally:
        await server.stop(None)
    told = [one.getMessage() for one in caplog.records if "configuration" in one.getMessage()]
    expected = f"the control plane at 127.0.0.1:{port} has no configuration service: this edge does what its own"
    assert [one[: len(expected)] for one in told] == [expected]


async def test_nothing_is_shown_before_the_configuration_is_known(tmp_path: Path) -> None:
    """A service that the configuration hides is hidden from an edge's first call on."""
    async with H2Upstream(say_name).serve() as upstream, serving(tmp_path) as control:
        await register(control, "echo", upstream.address)
        await control.put("services: {echo: {exposure: internal}}", "mesh.edge")
        await control.publish("mesh.edge")
        async with running(options("wire", control.address)) as addresses, h2_connect(addresses[PUBLIC]) as client:
            assert (await client.call(METHOD)).reason == "no_route"


@contextlib.asynccontextmanager
async def _edge(told: EdgeOptions) -> AsyncIterator[Edge]:
    """Run an edge that is not in the registry."""
    edge = Edge(told)
    async with edge.serve(Process().stop):
        yield edge
