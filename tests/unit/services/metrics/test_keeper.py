"""The keeper of alerts on real stores: rules evaluated at moments of a manual clock, silences, and deliveries."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mesh.errors import UsageError
from mesh.testing.clock import ManualClock
from services.metrics.alerts.delivery import SIGNATURE, TIMESTAMP, Delivery, signature
from services.metrics.alerts.keeper import DEFAULT_FILE, Keeper, default_rules
from services.metrics.alerts.receivers import Receiver
from services.metrics.alerts.records import Records, Silence
from services.metrics.errors import InvalidError, NotFoundError
from services.metrics.promql.labels import Labels, from_mapping, get
from services.metrics.query import Queries
from services.metrics.store import MetricStore
from services.storage.kv.embedded import EmbeddedStore
from tests.unit.services.metrics.helpers import NOW, clock_at, labels, opened, samples

PATIENCE = 30
SEVERITIES = {"HighErrorRate": "critical", "SlowCalls": "warning", "BreakerOpen": "warning"}
RULES = """
groups:
  - name: g
    rules:
      - {alert: High, expr: x > 5, for: 20s, labels: {severity: "{{ $labels.job }}"}}
      - {alert: High, expr: x > 50}
      - {record: "job:x", expr: sum by (job) (x)}
"""


@dataclass
class World:
    store: MetricStore
    keeper: Keeper
    clock: ManualClock

    async def at(self, seconds: float, value: float | None) -> dict[str, str]:
        """Move to `seconds` after NOW, where x is `value`; return the states of the alerts by severity."""
        self.clock.advance(max(0.0, NOW / 1000 + seconds - self.clock.wall_ns() / 1e9))
        if value is not None:
            await self.store.append(samples({labels("x", job="a"): [(seconds, value)]}), source="x")
        for group in self.keeper.groups():
            await self.keeper.evaluate(group)
        return {get(kept.active.labels, "severity") or "-": kept.active.state.value for kept in self.keeper.alerts()}


@contextlib.asynccontextmanager
async def world(folder: Path, clock: ManualClock | None = None) -> AsyncIterator[World]:
    clock = clock or clock_at()
    async with (
        EmbeddedStore.open(folder / "kv.db") as kv,
        Records(kv) as kept,
        opened(folder, clock=clock) as store,
        Queries(store) as queries,
    ):
        keeper = Keeper(store, queries, kept)
        await keeper.put_rules(DEFAULT_FILE, "")
        await keeper.put_rules("mine", RULES)
        yield World(store, keeper, clock)


async def test_alerts_go_through_their_states_and_a_restart_forgets_none(tmp_path: Path) -> None:
    clock = clock_at()
    async with world(tmp_path, clock) as first:
        assert await first.at(0, 1) == {}
        assert await first.at(10, 6) == {"a": "pending"}
        assert await first.at(20, 60) == {"a": "pending", "-": "firing"}
    async with world(tmp_path, clock) as second:
        assert await second.at(30, 6) == {"a": "firing", "-": "resolved"}
        assert await second.keeper.acknowledge("High", "me", "at it") == 1
        (kept,) = [one for one in second.keeper.alerts() if one.active.acknowledged]
        assert kept.active.value == 6
        assert await second.at(40, 1) == {"a": "resolved", "-": "resolved"}
        with pytest.raises(NotFoundError):
            await second.keeper.acknowledge(kept.fingerprint, "me", "")
        async with Queries(second.store) as queries:
            (recorded,) = (await queries.instant('{__name__="job:x"}', NOW + 40_000)).series
            assert recorded.values.tolist() == [1.0]
            assert (await queries.instant("ALERTS", NOW + 40_000)).series == []
            assert len((await queries.instant("count_over_time(ALERTS[1m])", NOW + 40_000)).series) >= 2


@pytest.mark.parametrize(
    ("alert", "about", "series"),
    [
        (
            "HighErrorRate",
            {"service": "payments"},
            {
                labels("rpc_server_call_duration_seconds_count", job="payments", rpc_status_code="INTERNAL"): (0, 90),
                labels("rpc_server_call_duration_seconds_count", job="payments", rpc_status_code="OK"): (0, 10),
                labels("rpc_server_call_duration_seconds_count", job="orders", rpc_status_code="NOT_FOUND"): (0, 900),
                labels("mesh_edge_calls_total", job="mesh-edge", service="storefront", code="ABORTED"): (0, 90),
            },
        ),
        (
            "HighErrorRate",
            {"service": "legacy"},
            {labels("mesh_edge_calls_total", job="mesh-edge", service="legacy", code="UNAVAILABLE"): (0, 90)},
        ),
        (
            "SlowCalls",
            {"service": "payments", "method": "a.B/Slow"},
            {
                labels(
                    f"rpc_server_call_duration_seconds_{kind}", job="payments", rpc_method=f"a.B/{method}", **more
                ): (0, to)
                for method, fast in (("Slow", 50), ("Fast", 100))
                for kind, more, to in (
                    *(("bucket", {"le": "1"}, fast), ("bucket", {"le": "5"}, 100), ("bucket", {"le": "+Inf"}, 100)),
                    ("count", {}, 100),
                )
            },
        ),
        (
            "BreakerOpen",
            {"service": "payments", "exported_instance": "p-1"},
            {
                labels(
                    "mesh_client_breaker_state",
                    job="orders",
                    instance=caller,
                    peer_service="payments",
                    peer_instance="p-1",
                ): (state, state)
                for caller, state in (("o-1", 2), ("o-2", 0))
            },
        ),
        (
            "BreakerOpen",
            {"service": "legacy", "exported_instance": "l-1"},
            {labels("mesh_edge_breaker_state", job="mesh-edge", service="legacy", exported_instance="l-1"): (2, 2)},
        ),
    ],
    ids=["errors-sdk", "errors-edge", "slow-sdk", "breaker-sdk", "breaker-edge"],
)
async def test_the_rules_that_ship_see_services_that_call_each_other_directly(
    tmp_path: Path, alert: str, about: dict[str, str], series: dict[Labels, tuple[float, float]]
) -> None:
    async with world(tmp_path) as mesh:
        await mesh.keeper.put_rules("mine", "")
        await mesh.keeper.put_rules(DEFAULT_FILE, default_rules())
        points = {one: [(0.0, first), (10.0, last)] for one, (first, last) in series.items()}
        await mesh.store.append(samples(points), source="x")
        await mesh.at(10, None)
        found = {(get(kept.active.labels, "alertname"), kept.active.labels) for kept in mesh.keeper.alerts()}
        expected = from_mapping({"alertname": alert, "severity": SEVERITIES[alert], **about})
        assert found == {(alert, expected)}


async def test_what_is_said_of_an_alert_is_as_new_as_its_value(tmp_path: Path) -> None:
    rules = """
groups: [{name: g, rules: [{alert: High, expr: x > 5, for: 20s, annotations: {summary: "it is {{ $value }}"}}]}]
"""
    async with world(tmp_path) as mesh:
        await mesh.keeper.put_rules("mine", rules)
        for seconds, value in ((0, 6.0), (10, 7.0), (20, 8.0), (30, 9.0)):
            await mesh.at(seconds, value)
            (kept,) = mesh.keeper.alerts()
            assert (kept.active.value, kept.active.annotations) == (value, {"summary": f"it is {value:g}"})


async def test_a_rule_that_cannot_be_evaluated_says_so_and_resolves_nothing(tmp_path: Path) -> None:
    async with world(tmp_path) as here:
        two = {labels("x", job="b", i=i): [(0.0, 9.0)] for i in "12"}
        await here.keeper.put_rules("mine", "groups: [{name: g, rules: [{alert: A, expr: x + on(job) x}]}]")
        await here.store.append(samples({labels("x", job="a"): [(0.0, 9.0)]}), source="x")
        assert await here.at(0, None) == {"-": "firing"}
        await here.store.append(samples(two), source="x")
        assert await here.at(10, None) == {"-": "firing"}
        (health,) = here.keeper.health["mine", "g"].rules
        assert (health.health, "duplicate series" in health.error) == ("err", True)


async def test_alerts_of_rules_that_are_gone_are_forgotten(tmp_path: Path) -> None:
    async with world(tmp_path) as here:
        assert await here.at(0, 60) == {"a": "pending", "-": "firing"}
        running = asyncio.create_task(here.keeper.run())
        await here.keeper.put_rules("mine", "")
        async with asyncio.timeout(PATIENCE):
            while here.keeper.alerts():
                await asyncio.sleep(0.01)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_silences(tmp_path: Path) -> None:
    async with world(tmp_path) as here:
        one = Silence("", ('job="a"',), NOW - 1, NOW + 60_000, "me", "")
        name = await here.keeper.silence(one)
        assert here.keeper.silenced_by(labels("x", job="a")) == [name]
        assert here.keeper.silenced_by(labels("x", job="b")) == []
        assert here.keeper.silenced_by(labels("x", job="a"), NOW + 60_000) == []
        await here.keeper.silence(Silence(name, one.matchers, one.starts_ms, NOW, "me", ""))
        assert here.keeper.silenced_by(labels("x", job="a")) == []
        for matchers in ((), ('job=~"("',), ('job=""',), ("job=a",), ('job="a"} or {',)):
            with pytest.raises(InvalidError):
                await here.keeper.silence(Silence("", matchers, NOW, NOW + 1, "", ""))
        with pytest.raises(InvalidError, match="ended already"):
            await here.keeper.silence(Silence("", ('job="a"',), NOW - 2, NOW - 1, "", ""))
        with pytest.raises(NotFoundError):
            await here.keeper.silence(Silence("nope", ('job="a"',), NOW, NOW + 1, "", ""))


@contextlib.asynccontextmanager
async def receiving() -> AsyncIterator[tuple[str, asyncio.Queue[tuple[str, dict[str, str], Any]]]]:
    """Take HTTP requests; yields the URL, and their paths, headers and JSON."""
    taken: asyncio.Queue[tuple[str, dict[str, str], Any]] = asyncio.Queue()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
        body = await reader.readexactly(int(headers["content-length"]))
        headers["body"] = body.decode()
        await taken.put((head[0].split()[1], headers, json.loads(body)))
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", taken
    finally:
        server.close()
        await server.wait_closed()


@contextlib.asynccontextmanager
async def delivering(here: World, receiver: Receiver) -> AsyncIterator[Delivery]:
    delivery = Delivery(receiver, here.keeper, here.store)
    task = asyncio.create_task(delivery.run())
    try:
        yield delivery
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def told(here: World, receiver: Receiver) -> None:
    """Wait until it is written down that the receiver was told: who ends before that tells it again."""
    async with asyncio.timeout(PATIENCE):
        while not any(receiver.name in kept.sent for kept in here.keeper.alerts()):
            await asyncio.sleep(0.01)


async def test_what_fires_and_what_is_resolved_is_told_once_and_signed(tmp_path: Path) -> None:
    async with world(tmp_path) as here, receiving() as (url, taken):
        receiver = Receiver(f"{url}/hook", secret="s3cret")
        async with delivering(here, receiver):
            await here.at(0, 60)
            path, headers, body = await asyncio.wait_for(taken.get(), PATIENCE)
            assert path == "/hook"
            assert headers[SIGNATURE] == signature("s3cret", headers[TIMESTAMP], headers["body"].encode())
            (alert,) = body["alerts"]
            assert (body["status"], alert["status"], alert["value"]) == ("firing", "firing", "60.0")
            await told(here, receiver)
        async with delivering(here, receiver):  # as after a restart: what was told is not told again
            await here.at(10, 1)
            _, _, body = await asyncio.wait_for(taken.get(), PATIENCE)
            assert [(one["labels"]["alertname"], one["status"]) for one in body["alerts"]] == [("High", "resolved")]
        assert taken.empty()


async def test_what_is_silenced_waits_for_the_end_of_the_silence(tmp_path: Path) -> None:
    async with world(tmp_path) as here, receiving() as (url, taken):
        name = await here.keeper.silence(Silence("", ('alertname="High"',), NOW, NOW + 10**9, "", ""))
        async with delivering(here, Receiver(url)) as delivery:
            await here.at(0, 60)
            assert delivery._due() == []
            await here.keeper.silence(Silence(name, ('alertname="High"',), NOW, NOW, "", ""))
            await asyncio.wait_for(taken.get(), PATIENCE)


async def test_alertmanager_is_told_in_its_own_form(tmp_path: Path) -> None:
    async with world(tmp_path) as here, receiving() as (url, taken):
        async with delivering(here, Receiver(f"{url}/am/", alertmanager=True)):
            await here.at(0, 60)
            path, headers, body = await asyncio.wait_for(taken.get(), PATIENCE)
        assert path == "/am/api/v2/alerts"
        assert SIGNATURE not in headers
        (alert,) = body
        assert alert["labels"] == {"alertname": "High", "job": "a"}
        assert alert["startsAt"] < alert["endsAt"]


def test_receivers_have_urls() -> None:
    for url in ("", "ftp://x", "http://", "localhost:80", "http://a/#b"):
        with pytest.raises(UsageError, match="--alert-webhook"):
            Receiver(url)
