"""Gray releases, watches and reports over real gRPC: who gets what, and who is known to run it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from mesh.api.config import v1
from tests.unit.services.config.helpers import ME, Control, refusal, refused, serving

APPLIED, REJECTED = v1.APPLIED_STATE_APPLIED, v1.APPLIED_STATE_REJECTED


@pytest.fixture
async def control(tmp_path: Path) -> AsyncIterator[Control]:
    async with serving(tmp_path) as running:
        yield running


class Watcher:
    """An open watch."""

    def __init__(self, control: Control, instance: str = "orders-1", **more: Any) -> None:
        request: dict[str, Any] = {"application": "shop", "service": "orders", "instance": instance, **more}
        self._call = control.config.Watch(v1.WatchRequest(**request))

    async def next(self) -> v1.WatchResponse:
        reply: v1.WatchResponse = await self._call.read()
        return reply

    async def content(self) -> Any:
        return json.loads((await self.next()).changed.inline.content_json)

    def cancel(self) -> None:
        self._call.cancel()


async def test_a_watcher_hears_of_every_release_and_resumes(control: Control) -> None:
    watcher = Watcher(control)
    first = await watcher.next()
    assert (first.changed.release, first.changed.inline.content_json) == (0, "{}")
    await control.put("a: 1")
    await control.publish()
    assert await watcher.content() == {"a": 1}
    await control.put("b: 1", service="payments")
    await control.publish()
    seen = await watcher.next()
    # Another service's affair: the release is new, the content is not.
    assert (seen.changed.release, seen.changed.WhichOneof("content")) == (2, "unchanged")
    watcher.cancel()

    had: dict[str, Any] = {"seen": seen.header, "release": 2, "checksum": seen.changed.checksum}
    again = Watcher(control, **had)
    assert (await again.next()).changed.WhichOneof("content") == "unchanged"
    again.cancel()
    await control.put("a: 2")
    await control.publish()
    again = Watcher(control, **had)
    assert await again.content() == {"a": 2}
    again.cancel()


async def test_large_content_is_fetched(control: Control) -> None:
    await control.put("a: " + "x" * (65 * 1024))
    await control.publish()
    watcher = Watcher(control)
    update = (await watcher.next()).changed
    watcher.cancel()
    assert update.WhichOneof("content") == "fetch"
    effective = (await control.effective(release=update.release)).effective
    assert effective.checksum == update.checksum
    assert len(effective.content_json) > 65 * 1024


async def test_a_watch_shows_secrets_to_the_holder_of_the_lease(control: Control) -> None:
    await control.put("a: {$secret: x}")
    await control.publish()
    lease = await control.register("orders", "orders-1")
    clear, masked, wrong = (
        Watcher(control, lease_id=lease),
        Watcher(control, "orders-2"),
        Watcher(control, "orders-2", lease_id=lease),
    )
    assert await clear.content() == {"a": "x"}
    assert list((await masked.content())["a"]) == ["$masked"]
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await wrong.next()
    assert refusal(caught.value).code is grpc.StatusCode.PERMISSION_DENIED
    clear.cancel()
    masked.cancel()


async def test_gray_by_labels_then_percent_then_all(control: Control) -> None:
    await control.put("a: 1")
    await control.publish()
    names = [f"orders-{number}" for number in range(20)]
    watchers = {name: Watcher(control, name, labels={"zone": "x" if name == "orders-7" else "y"}) for name in names}
    running = {name: (await watcher.next()).changed.release for name, watcher in watchers.items()}
    assert set(running.values()) == {1}

    async def widen(*came: str) -> None:
        for name in came:
            running[name] = (await watchers[name].next()).changed.release

    def gray(percent: float) -> set[str]:
        from services.config.gray import Rule, selects
        from services.config.layers import Target

        return {name for name in names if selects(Rule(percent), Target("orders", "", name), "shop/2")}

    await control.put("a: 2")
    await control.publish(gray_rule=v1.GrayRule(labels={"zone": "x"}))
    await widen("orders-7")
    assert {name for name, release in running.items() if release == 2} == {"orders-7"}

    blocked = await refused(control.publish())
    assert blocked.kinds == {"GRAY_RELEASE"}
    before = {"orders-7"}
    for percent in (30, 60, 100):
        await control.config.Promote(
            v1.PromoteRequest(application="shop", author=ME, gray_rule=v1.GrayRule(percent=percent))
        )
        after = gray(percent)
        await widen(*(after ^ before))
        assert {name for name, release in running.items() if release == 2} == after
        before = after
    await control.config.Promote(v1.PromoteRequest(application="shop", release=2, author=ME))
    assert (await control.effective()).effective.release == 2
    for watcher in watchers.values():
        watcher.cancel()


async def test_abort_takes_a_gray_release_back(control: Control) -> None:
    await control.put("a: 1")
    await control.publish()
    watcher = Watcher(control)
    assert await watcher.content() == {"a": 1}
    await control.put("a: 2")
    await control.publish(gray_rule=v1.GrayRule(labels={"instance": "orders-1"}))
    assert await watcher.content() == {"a": 2}
    await control.config.Abort(v1.AbortRequest(application="shop", author=ME))
    assert await watcher.content() == {"a": 1}
    watcher.cancel()
    found = await refused(control.config.Abort(v1.AbortRequest(application="shop", author=ME)))
    assert found.kinds == {"GRAY_RELEASE"}
    await control.publish(gray_rule=v1.GrayRule(percent=100))
    rolled = await control.config.Rollback(v1.RollbackRequest(application="shop", to_release=1, author=ME))
    assert rolled.aborted_release == 3
    assert (await control.effective(service="orders", instance="orders-1")).effective.release == 4


@pytest.mark.parametrize("rule", [{}, {"percent": -1}, {"percent": 101}, {"percent": float("nan")}])
async def test_a_rule_that_makes_no_sense(control: Control, rule: dict[str, Any]) -> None:
    found = await refused(control.publish(gray_rule=v1.GrayRule(**rule)))
    assert found.code is grpc.StatusCode.INVALID_ARGUMENT
    assert any(where.startswith("gray_rule") for where in found.violations)


async def test_one_look_shows_what_everybody_runs(control: Control) -> None:
    await control.put("a: 1")
    await control.put("b: 1", service="orders")
    await control.publish()
    for instance in ("orders-1", "orders-2", "orders-3"):
        await control.register("orders", instance)
    await control.register("payments", "payments-1")
    effective = (await control.effective(service="orders")).effective

    async def report(instance: str, release: int, state: v1.AppliedState.ValueType, **more: Any) -> None:
        request = v1.ReportAppliedRequest(
            application="shop",
            service="orders",
            instance=instance,
            checksum=effective.checksum,
            release=release,
            state=state,
            **more,
        )
        await control.config.ReportApplied(request)

    async def listed(**request: Any) -> v1.ListAppliedResponse:
        reply: v1.ListAppliedResponse = await control.config.ListApplied(
            v1.ListAppliedRequest(application="shop", **request)
        )
        return reply

    await report("orders-1", 1, APPLIED)
    await report("orders-2", 1, REJECTED, error="b is too small")
    await report("gone", 1, APPLIED)
    found = await listed()
    rows = {one.instance: (one.live, one.wanted_release, one.release, one.state, one.lags) for one in found.applied}
    assert rows == {
        "gone": (False, 1, 1, APPLIED, False),
        "orders-1": (True, 1, 1, APPLIED, False),
        "orders-2": (True, 1, 1, REJECTED, True),
        "orders-3": (True, 1, 0, v1.APPLIED_STATE_UNSPECIFIED, True),
    }
    assert (found.live_instances, found.lagging_instances) == (3, 2)
    assert [one.instance for one in (await listed(not_in=True)).applied] == ["orders-2", "orders-3"]
    assert [one.error for one in (await listed(not_in=True, release=1)).applied] == ["b is too small", ""]
    assert [one.instance for one in (await listed(release=1)).applied] == ["gone", "orders-1", "orders-2"]

    await control.put("a: 2")
    await control.publish()
    assert (await listed()).lagging_instances == 3
    pages: list[str] = []
    token = ""
    while True:
        page = await listed(limit=3, page_token=token)
        pages += [one.instance for one in page.applied]
        token = page.next_page_token
        if not token:
            break
    assert pages == ["gone", "orders-1", "orders-2", "orders-3"]
    bad = await refused(listed(page_token="nonsense"))
    assert bad.code is grpc.StatusCode.INVALID_ARGUMENT
    assert (await refused(report("orders-1", 9, APPLIED))).code is grpc.StatusCode.NOT_FOUND


async def test_a_whole_fleet_may_report_at_once(control: Control) -> None:
    await control.put("a: 1")
    await control.publish()
    sum_ = (await control.effective()).effective.checksum

    async def report(number: int) -> None:
        about: dict[str, Any] = {
            "application": "shop",
            "service": "orders",
            "instance": f"orders-{number}",
            "checksum": sum_,
        }
        await control.config.ReportApplied(v1.ReportAppliedRequest(release=1, state=APPLIED, **about))

    await asyncio.gather(*map(report, range(2000)))
    listed = await control.config.ListApplied(v1.ListAppliedRequest(application="shop", limit=5000))
    assert len(listed.applied) == 2000


async def test_a_watcher_is_seen_before_it_reports(control: Control) -> None:
    await control.put("a: 1")
    await control.publish(gray_rule=v1.GrayRule(labels={"zone": "x"}))
    watcher = Watcher(control, "batch-1", service="batch", labels={"zone": "x"})
    await watcher.next()
    (row,) = (await control.config.ListApplied(v1.ListAppliedRequest(application="shop"))).applied
    assert (row.service, row.watching, row.live, row.wanted_release, row.lags) == ("batch", True, False, 1, False)
    watcher.cancel()


async def test_concurrent_writers_lose_nothing(control: Control) -> None:
    """Forty writers of one application, each to its own layer: all of them get on, in one order."""
    replies = await asyncio.gather(*(control.put(f"a: {number}", service=f"s{number}") for number in range(40)))
    assert len({reply.header.revision for reply in replies}) == 40
    release = await control.publish()
    assert len(release.layers) == 40
