"""Samples in DuckDB and out again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from services.metrics.options import MetricsOptions
from services.metrics.promql.data import STALE, is_stale
from services.metrics.promql.errors import LimitError, ParseError
from services.metrics.promql.parse import parse_selector
from services.metrics.promql.plan import Fetch
from services.metrics.query import Queries
from services.metrics.samples import Meta
from tests.unit.services.metrics.helpers import NOW, clock_at, labels, opened, samples

UP = {labels("up", job=job): [(i * 10.0, float(i)) for i in range(-6, 0)] for job in ("a", "b", "c")}


def wanted(text: str, start: float = -3600, end: float = 0) -> Fetch:
    return Fetch(parse_selector(text), NOW + round(start * 1000), NOW + round(end * 1000))


async def test_what_was_appended_is_found_after_a_restart(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        stored = await store.append(samples(UP, {"up": Meta("gauge", "", "Whether it is up.")}), source="x")
        assert (stored.accepted, dict(stored.rejected)) == (18, {})
    async with opened(tmp_path) as store:
        block = await store.fetch(wanted('up{job=~"a|c"}', -40, -20))
        assert block.labels == [labels("up", job="a"), labels("up", job="c")]
        assert block.ts.tolist() == [NOW - 40_000, NOW - 30_000, NOW - 20_000] * 2
        assert block.values.tolist() == [-4.0, -3.0, -2.0] * 2
        assert block.starts.tolist() == [0, 3, 6]
        assert store.meta["up"] == Meta("gauge", "", "Whether it is up.")
        assert len((await store.fetch(wanted("down"))).labels) == 0


async def test_the_stale_marker_keeps_its_bits_and_nan_is_not_one(tmp_path: Path) -> None:
    one = labels("x")
    async with opened(tmp_path) as store:
        await store.append(samples({one: [(-3, 1.0), (-2, STALE), (-1, float("nan"))]}), source="x")
        block = await store.fetch(wanted("x"))
        assert is_stale(block.values).tolist() == [False, True, False]
        assert np.isnan(block.values[2])


async def test_samples_are_ordered_and_one_a_time_whatever_the_order_they_came_in(tmp_path: Path) -> None:
    one, other = labels("x", a="1"), labels("x", a="2")
    async with opened(tmp_path) as store:
        await store.append(samples({one: [(-1, 1.0)], other: [(-5, 2.0), (-9, 3.0)]}), source="x")
        await store.append(samples({one: [(-7, 4.0), (-1, 1.0)]}), source="x")
        block = await store.fetch(wanted("x"))
        assert ((block.ts - NOW) / 1000).tolist() == [-7, -1, -9, -5]
        assert block.values.tolist() == [4.0, 1.0, 3.0, 2.0]


async def test_many_series_come_back_by_series_and_time(tmp_path: Path) -> None:
    # More than are kept in memory, among others; sent backwards, and some of it twice with other values.
    names = [f"{i:02}" for i in range(40)]
    async with opened(tmp_path) as store:
        for at in (-1.0, -3.0, -2.0, -3.0):
            value = store.accepted
            points = {labels("many", i=i): [(at, float(value + int(i)))] for i in reversed(names)}
            await store.append(samples({**points, labels("other"): [(at, -1.0)]}), source="x")
        block = await store.fetch(wanted("many"))
    assert [dict(one)["i"] for one in block.labels] == names
    assert np.diff(block.starts).tolist() == [3] * len(names)
    assert block.ts.reshape(-1, 3).tolist() == [[NOW - 3000, NOW - 2000, NOW - 1000]] * len(names)
    # The last of those at one time, 41 samples a batch.
    assert block.values.reshape(-1, 3).tolist() == [[123.0 + i, 82.0 + i, 0.0 + i] for i in range(len(names))]


async def test_what_is_sent_twice_is_stored_once(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        first = await store.append(samples(UP), source="x", producer="me", seq=3)
        again = await store.append(samples(UP), source="x", producer="me", seq=3)
        assert (first.duplicate, again.duplicate, again.durable_seq) == (False, True, 3)
        assert len((await store.fetch(wanted("up"))).ts) == 18


async def test_series_beyond_the_limits_are_refused_and_counted(tmp_path: Path) -> None:
    async with opened(tmp_path, MetricsOptions(max_series_per_target=2, max_series=3)) as store:
        stored = await store.append(samples(UP), source="x")
        assert (stored.accepted, list(stored.rejected.values())) == (12, [6])
        assert "x has 2 series already" in stored.reason
        stored = await store.append(samples({labels("y", a=a): [(-1, 1.0)] for a in "12"}), source="y")
        assert (stored.accepted, sum(stored.rejected.values())) == (1, 1)
        assert "there are 3 series already" in stored.reason
        assert store.rejected["series"] == 7
        store.forget_source("x")
        assert (await store.append(samples(UP), source="z")).accepted == 12


async def test_absurd_times_are_refused(tmp_path: Path) -> None:
    points = [(-1.0, 1.0), (-20 * 86_400.0, 2.0), (3600.0, 3.0)]
    async with opened(tmp_path) as store:
        stored = await store.append(samples({labels("x"): points}), source="x")
        assert stored.accepted == 1
        assert len(stored.rejected) == 2
        assert store.rejected["time"] == 2


async def test_series_are_forgotten_with_their_samples(tmp_path: Path) -> None:
    clock = clock_at()
    async with opened(tmp_path, clock=clock) as store:
        await store.append(samples(UP), source="x")
        clock.advance(14 * 86_400)
        assert store.forget_old() == 0
        clock.advance(2 * 86_400)
        assert store.forget_old() == 3
        assert store.index.names() == []
        assert store.series_of("x") == 0


async def test_a_query_is_bounded(tmp_path: Path) -> None:
    async with opened(tmp_path, MetricsOptions(max_query_samples=10, max_query_points=5)) as store:
        await store.append(samples(UP), source="x")
        async with Queries(store) as queries:
            with pytest.raises(LimitError, match="more than 10 samples"):
                await queries.instant("sum(up)", NOW)
            with pytest.raises(LimitError, match="more than 5 steps"):
                await queries.range("up", NOW, NOW + 10_000, 1000)
            for start, end, step in ((NOW, NOW - 1, 1), (NOW, NOW, 0), (NOW, 10**17, 10**17)):
                with pytest.raises(ParseError):
                    await queries.range("up", start, end, step)
            with pytest.raises(ParseError, match="range query"):
                await queries.range("up[5m]", NOW, NOW, 1)
            assert [one.values.tolist() for one in (await queries.instant('up{job="a"}', NOW)).series] == [[-1.0]]


async def test_a_range_vector_shows_its_samples(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        await store.append(samples(UP), source="x")
        async with Queries(store) as queries:
            (found,) = (await queries.instant('up{job="a"}[25s]', NOW)).series
            assert ((found.ts - NOW) / 1000).tolist() == [-20, -10]
            assert (await queries.instant('"text"', NOW)).text == "text"
