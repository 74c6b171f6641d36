from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from hypothesis import given
from hypothesis import strategies as st

from mesh.api.registry.v1 import (
    HEALTH_NOT_SERVING,
    HEALTH_SERVING,
    HEALTH_STARTING,
    OPINION_SOURCE_CHECK,
    OPINION_SOURCE_INSTANCE,
    HealthCheck,
    Instance,
)
from services.registry.checks.policy import Answer, Verdict, first_pause, is_owner, pause
from tests.unit.services.registry.world import World

PATIENCE = 30.0
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
CHECK = HealthCheck(interval_seconds=10, timeout_seconds=1, unhealthy_threshold=3, healthy_threshold=2)
GOOD, BAD = Answer(good=True), Answer(good=False, reason="it cannot be reached")


def test_a_verdict_takes_as_many_answers_as_were_asked_for() -> None:
    verdict = Verdict(CHECK)
    said = []
    for answer in (GOOD, GOOD, BAD, BAD, GOOD, BAD, BAD, BAD, GOOD, GOOD):
        verdict.count(answer)
        said.append(verdict.health)
    assert said == [HEALTH_STARTING] + [HEALTH_SERVING] * 6 + [HEALTH_NOT_SERVING] * 2 + [HEALTH_SERVING]


def test_what_it_tells_by_itself_needs_no_repetition() -> None:
    verdict = Verdict(CHECK)
    assert verdict.told(Answer(good=False, reason="it answers NOT_SERVING"))
    assert (verdict.health, verdict.reason) == (HEALTH_NOT_SERVING, "it answers NOT_SERVING")
    assert verdict.told(GOOD)
    assert not verdict.told(GOOD)


@given(st.lists(st.booleans(), max_size=60), st.integers(1, 10), st.integers(1, 10))
def test_it_changes_only_after_a_run_and_always_then(answers: list[bool], bad: int, good: int) -> None:
    verdict = Verdict(HealthCheck(unhealthy_threshold=bad, healthy_threshold=good))
    for index, answer in enumerate(answers):
        before = verdict.health
        changed = verdict.count(GOOD if answer else BAD)
        run = len(answers[: index + 1]) - max((i + 1 for i in range(index + 1) if answers[i] != answer), default=0)
        wanted = HEALTH_SERVING if answer else HEALTH_NOT_SERVING
        assert changed == (before != wanted and run >= (good if answer else bad))
        assert verdict.health == (wanted if changed else before)


@given(st.lists(st.text("abcdef", min_size=1, max_size=4), min_size=1, max_size=6, unique=True), st.text(max_size=8))
def test_exactly_one_of_the_living_checks_an_instance(processes: list[str], instance_id: str) -> None:
    key = ("orders", instance_id)
    owners = [one for one in processes if is_owner(one, (other for other in processes if other != one), key)]
    assert len(owners) == 1
    # When another one dies, it stays where it is.
    for dead in (one for one in processes if one not in owners):
        left = [one for one in processes if one != dead]
        assert is_owner(owners[0], (other for other in left if other != owners[0]), key)


@given(st.floats(0, 1, exclude_max=True))
def test_checks_are_jittered_and_begin_at_once_for_who_waits(dice: float) -> None:
    assert 9 <= pause(CHECK, lambda: dice) <= 11
    assert first_pause(CHECK, lambda: dice, HEALTH_STARTING) == 0
    assert 0 <= first_pause(CHECK, lambda: dice, HEALTH_SERVING) < 10


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path / "kv.db")
    await made.start()
    yield made
    await made.stop()


@contextlib.asynccontextmanager
async def health_server(address: str = "127.0.0.1:0") -> AsyncIterator[tuple[str, health.aio.HealthServicer]]:
    server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
    servicer = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = server.add_insecure_port(address)
    await server.start()
    try:
        yield f"127.0.0.1:{port}", servicer
    finally:
        await server.stop(0)


async def seen(world: World, holds: Callable[[Instance], bool]) -> Instance:
    async with asyncio.timeout(PATIENCE):
        while True:
            moved = world.registry._live.moved
            found = world.instance("a")
            if holds(found):
                return found
            await moved.wait()


def asks(**fields: object) -> HealthCheck:
    plain = {"interval_seconds": 0.05, "timeout_seconds": 5, "unhealthy_threshold": 2, "healthy_threshold": 1}
    return HealthCheck(**{**plain, **fields})  # type: ignore[arg-type]


async def test_it_is_starting_until_it_has_answered_well_and_then_what_it_answers(world: World) -> None:
    async with health_server() as (address, servicer):
        await servicer.set("shop.A", NOT_SERVING)
        await world.register("a", endpoints=[address], check=asks(grpc_service="shop.A", interval_seconds=300))
        first = world.instance("a")
        assert (first.health, first.health_reason) == (HEALTH_STARTING, "it has not been checked yet")
        assert {one.source: one.health for one in first.opinions} == {
            OPINION_SOURCE_INSTANCE: HEALTH_SERVING,
            OPINION_SOURCE_CHECK: HEALTH_STARTING,
        }
        await seen(world, lambda one: one.health == HEALTH_NOT_SERVING)  # by Watch: one bad answer alone is not enough
        await servicer.set("shop.A", SERVING)
        await seen(world, lambda one: one.health == HEALTH_SERVING)


async def test_a_change_is_heard_at_once_by_watch(world: World) -> None:
    async with health_server() as (address, servicer):
        await servicer.set("", SERVING)
        # Nothing but Watch can bring these: the next check is far away.
        await world.register("a", endpoints=[address], check=asks(interval_seconds=300))
        ready = await seen(world, lambda one: one.health == HEALTH_SERVING)
        assert ready.serving_since_ms >= ready.registered_at_ms
        await servicer.set("", NOT_SERVING)
        sick = await seen(world, lambda one: one.health == HEALTH_NOT_SERVING)
        assert sick.health_reason == "health check: it answers NOT_SERVING"
        assert [one.health for one in sick.opinions] == [HEALTH_SERVING, HEALTH_NOT_SERVING]  # both words are kept
        await servicer.set("", SERVING)
        await seen(world, lambda one: one.health == HEALTH_SERVING)


async def test_one_that_died_is_found_and_found_again(world: World) -> None:
    async with health_server() as (address, servicer):
        await servicer.set("", SERVING)
        lease = await world.register("a", endpoints=[address], check=asks())
        await seen(world, lambda one: one.health == HEALTH_SERVING)
    dead = await seen(world, lambda one: one.health == HEALTH_NOT_SERVING)
    assert dead.health_reason == "health check: it cannot be reached"
    assert world.instance("a").instance_id == "a"  # not serving is not gone
    async with health_server(address) as (_, servicer):
        await servicer.set("", SERVING)
        await seen(world, lambda one: one.health == HEALTH_SERVING)
        # The worse of both words counts.
        await world.registry.keepalive(lease, HEALTH_NOT_SERVING, "busy")
        busy = world.instance("a")
        assert (busy.health, busy.health_reason) == (HEALTH_NOT_SERVING, "busy")


async def test_one_without_a_health_service_is_told_so(world: World) -> None:
    server = grpc.aio.server()
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    await world.register("a", endpoints=[f"127.0.0.1:{port}"], check=asks())
    sick = await seen(world, lambda one: one.health == HEALTH_NOT_SERVING)
    assert sick.health_reason == "health check: it has no grpc.health.v1: register it without a check"
    await server.stop(0)


async def test_a_verdict_outlives_the_control_process(world: World) -> None:
    async with health_server() as (address, servicer):
        await servicer.set("", SERVING)
        await world.register("a", endpoints=[address], check=asks(interval_seconds=300))
        await seen(world, lambda one: one.health == HEALTH_SERVING)
        await world.restart()
        assert world.instance("a").health == HEALTH_SERVING
