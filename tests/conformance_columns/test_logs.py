"""The log sink on every driver: what is searched is what a scan of all records finds."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from mesh.api.logsink.v1 import Filter, LogBatch, LogRecord, TextColumn
from mesh.testing.clock import ManualClock
from services.logsink.domain import LogSink
from services.logsink.records import LOGS
from services.logsink.searching import InvalidError
from services.sinks.messages import Fields, fields_of
from services.storage.columns.base import BatchError
from services.storage.columns.urls import open_columns

SECOND = 1_000_000_000
NOW = ManualClock().wall_ns()


def batch(rows: Sequence[dict[str, Any]]) -> LogBatch:
    """Return rows as columns: texts with indices where they repeat."""

    def column(name: str, default: str = "") -> TextColumn:
        texts = [str(row.get(name, default)) for row in rows]
        distinct = sorted(set(texts))
        if len(distinct) == 1:
            return TextColumn(values=distinct)
        if len(distinct) < len(texts):
            return TextColumn(values=distinct, indices=[distinct.index(text) for text in texts])
        return TextColumn(values=texts)

    names = ("body", "service", "instance", "correlation_id", "trace_id", "span_id")
    texts: dict[str, Any] = {name: column(name) for name in names}
    return LogBatch(
        ts_ns=[row["ts_ns"] for row in rows],
        severity_number=[row.get("severity_number", 9) for row in rows],
        attributes=column("attributes", "{}"),
        **texts,
    )


def sent_fields(rows: Sequence[dict[str, Any]]) -> Fields:
    return fields_of(batch(rows))


ROW = st.fixed_dictionaries(
    {
        "ts_ns": st.integers(-30, 30).map(lambda seconds: NOW + seconds * 400 * SECOND),
        "severity_number": st.sampled_from((0, 1, 9, 10, 17, 24)),
        "body": st.sampled_from(("Order placed", "ORDER 5% off", "a_b", "", "größe\nÜber", "back\\slash", "'quote")),
        "service": st.sampled_from(("orders", "payments", "")),
        "instance": st.sampled_from(("a-1", "a-2")),
        "correlation_id": st.sampled_from(("", "c1", "c2")),
        "trace_id": st.sampled_from(("", "c1", "0af7651916cd43dd8448eb211c80319c")),
        "attributes": st.sampled_from(("{}", '{"order.id":"7"}', '{"n":7,"deep":{"a":[1]}}', '{"n":null,"k":"ü"}')),
    }
)
FILTER = st.fixed_dictionaries(
    {},
    optional={
        "start_ns": st.integers(-30, 30).map(lambda seconds: NOW + seconds * 400 * SECOND),
        "end_ns": st.integers(-30, 31).map(lambda seconds: NOW + seconds * 400 * SECOND + 1),
        "correlation_id": st.sampled_from(("c1", "c2", "none")),
        "trace_id": st.sampled_from(("c1", "0af7651916cd43dd8448eb211c80319c")),
        "services": st.lists(st.sampled_from(("orders", "payments", "x")), max_size=2),
        "instances": st.lists(st.sampled_from(("a-1", "b")), max_size=2),
        "min_severity": st.sampled_from((0, 9, 17)),
        "text": st.sampled_from(("order", "5%", "_", "ÜBER", "\\", "'")),
        "regex": st.sampled_from(("^Order", "[0-9]+%", "o.*p", "^$")),
        "attributes": st.dictionaries(
            st.sampled_from(("order.id", "n", "k", "none")), st.sampled_from(("", "7", "ü")), max_size=2
        ),
    },
)


def matches(row: dict[str, Any], filter_: dict[str, Any]) -> bool:
    """Say by Python alone whether a filter means a record."""
    tree = json.loads(row["attributes"])

    def has(name: str, value: str) -> bool:
        found = tree.get(name)
        if found is None:
            return False
        return not value or (found if isinstance(found, str) else json.dumps(found)) == value

    correlation = row["correlation_id"] or row["trace_id"]
    return all(
        (
            row["ts_ns"] >= filter_.get("start_ns", 0),
            row["ts_ns"] < filter_.get("end_ns", 2**63),
            "correlation_id" not in filter_ or correlation == filter_["correlation_id"],
            "trace_id" not in filter_ or row["trace_id"] == filter_["trace_id"],
            not filter_.get("services") or row["service"] in filter_["services"],
            not filter_.get("instances") or row["instance"] in filter_["instances"],
            row["severity_number"] >= filter_.get("min_severity", 0),
            filter_.get("text", "").lower() in row["body"].lower(),
            "regex" not in filter_ or re.search(filter_["regex"], row["body"]) is not None,
            all(has(name, value) for name, value in filter_.get("attributes", {}).items()),
        )
    )


def complete(filter_: dict[str, Any]) -> dict[str, Any]:
    """Return the filter with the time range that it needs."""
    if "correlation_id" not in filter_ and "trace_id" not in filter_:
        filter_ = {"start_ns": NOW - 30 * 400 * SECOND, "end_ns": NOW + 31 * 400 * SECOND} | filter_
    if filter_.get("end_ns", 2**63) <= filter_.get("start_ns", 0):
        del filter_["end_ns"]
        filter_.setdefault("correlation_id", "c1")
    return filter_


@contextlib.asynccontextmanager
async def sink_on(url: str) -> Any:
    async with open_columns(url, [LOGS]) as store:
        yield LogSink(store, ManualClock())


def test_a_search_is_what_a_scan_finds(url: str) -> None:
    with asyncio.Runner() as runner:
        context = sink_on(url)
        sink = runner.run(context.__aenter__())
        stored: list[dict[str, Any]] = []

        @settings(
            max_examples=40,
            deadline=None,
            database=None,
            derandomize=True,
            phases=(Phase.generate,),
            suppress_health_check=list(HealthCheck),
        )
        @given(st.lists(ROW, max_size=8), FILTER, st.booleans(), st.integers(1, 20))
        def check(rows: list[dict[str, Any]], filter_: dict[str, Any], oldest_first: bool, limit: int) -> None:  # noqa: FBT001
            async def go() -> None:
                before = len(stored)
                if rows:
                    await sink.push(sent_fields(rows), "p", before + len(rows), before)
                stored.extend(rows)
                wanted = [
                    (row["ts_ns"], place) for place, row in enumerate(stored, 1) if matches(row, complete(filter_))
                ]
                asked = Filter(**complete(filter_))
                found: list[tuple[int, int]] = []
                cursor = ""
                while True:
                    page = await sink.search(asked, limit, cursor, oldest_first=oldest_first)
                    assert len(page.records) <= limit
                    found += [(record.ts_ns, record.row_id) for record in page.records]
                    if not (cursor := page.cursor):
                        break
                assert found == sorted(wanted, reverse=not oldest_first)

            runner.run(go())

        check()
        assert len(stored) > 50
        runner.run(context.__aexit__(None, None, None))


async def test_a_record_comes_back_whole(url: str) -> None:
    sent: dict[str, Any] = {
        "ts_ns": NOW - 5,
        "severity_number": 17,
        "body": "it broke 🦆",
        "service": "orders",
        "instance": "orders-1",
        "correlation_id": "order-7",
        "trace_id": "0af7651916cd43dd8448eb211c80319c",
        "span_id": "b7ad6b7169203331",
        "attributes": '{"a": {"b": [1, 2.5, null]}}',
    }
    async with sink_on(url) as sink:
        await sink.push(sent_fields([sent]), "p", 1, 0)
        page = await sink.search(Filter(correlation_id="order-7"), 0, "", oldest_first=False)
    (record,) = page.records
    tree = json.loads(record.attributes)
    record.attributes = sent.pop("attributes")
    assert tree == json.loads(record.attributes)
    assert record == LogRecord(**sent, observed_ns=NOW, attributes=record.attributes, row_id=1)


async def test_a_trace_id_stands_in_for_the_correlation_id(url: str) -> None:
    rows = [{"ts_ns": NOW, "body": "x", "trace_id": "ab" * 16}, {"ts_ns": NOW, "body": "y", "correlation_id": "c"}]
    async with sink_on(url) as sink:
        await sink.push(sent_fields(rows), "p", 1, 0)
        found = [
            [record.body for record in (await sink.search(filter_, 0, "", oldest_first=True)).records]
            for filter_ in (Filter(correlation_id="ab" * 16), Filter(trace_id="ab" * 16), Filter(correlation_id="c"))
        ]
    assert found == [["x"], ["x"], ["y"]]


async def test_absurd_times_become_the_time_of_arrival(url: str) -> None:
    hours = [0, 1, NOW - 400 * 86_400 * SECOND, NOW + 10 * 86_400 * SECOND, NOW - SECOND, 2**63 - 1, -5]
    rows = [{"ts_ns": ts, "body": str(ts), "attributes": '{"k":1}' if n % 2 else "{ }"} for n, ts in enumerate(hours)]
    async with sink_on(url) as sink:
        await sink.push(sent_fields(rows), "p", 1, 0)
        filter_ = Filter(start_ns=NOW - 2 * SECOND, end_ns=NOW + 1)
        found = (await sink.search(filter_, 0, "", oldest_first=True)).records
        assert sink.counters.absurd_times == 5
    kept = {record.body: (record.ts_ns, json.loads(record.attributes)) for record in found}
    assert kept[str(NOW - SECOND)] == (NOW - SECOND, {})
    assert kept["0"] == (NOW, {})
    assert kept["1"] == (NOW, {"mesh.time_ns": 1, "k": 1})
    assert kept["-5"] == (NOW, {"mesh.time_ns": -5})
    assert len(kept) == len(hours)


async def test_a_tail_goes_on_where_it_was(url: str) -> None:
    async with sink_on(url) as sink:
        await sink.push(sent_fields([{"ts_ns": NOW, "body": f"old {n}"} for n in range(5)]), "p", 1, 0)
        tail = sink.tail(Filter(text="old"), "", 2)
        first = await anext(tail)
        assert [record.body for record in first.records] == ["old 3", "old 4"]
        following = asyncio.ensure_future(anext(tail))
        await sink.push(
            sent_fields([{"ts_ns": NOW, "body": "else"}, {"ts_ns": NOW - SECOND, "body": "old again"}]), "p", 2, 1
        )
        second = await asyncio.wait_for(following, 30)
        assert [record.body for record in second.records] == ["old again"]
        await tail.aclose()
        await sink.push(sent_fields([{"ts_ns": NOW, "body": f"new {n}"} for n in range(600)]), "p", 3, 2)
        resumed = sink.tail(Filter(), second.cursor, 0)
        assert not (await anext(resumed)).records
        got: list[str] = []
        while len(got) < 600:
            got += [record.body for record in (await asyncio.wait_for(anext(resumed), 30)).records]
        assert got == [f"new {n}" for n in range(600)]
        await resumed.aclose()


async def test_counts_and_fields(url: str) -> None:
    rows = [
        {"ts_ns": NOW + n, "severity_number": 9 + n % 9, "service": f"s{n % 2}", "attributes": f'{{"n":{n % 3}}}'}
        for n in range(100)
    ]
    async with sink_on(url) as sink:
        await sink.push(sent_fields(rows), "p", 1, 0)
        filter_ = Filter(start_ns=NOW, end_ns=NOW + 100, services=["s0"])
        counts = await sink.histogram(filter_, 50)
        fields = await sink.fields(filter_)
        with pytest.raises(InvalidError):
            await sink.histogram(Filter(), 0)
    assert sum(sum(bucket.counts.values()) for bucket in counts.buckets) == 50
    assert {key for bucket in counts.buckets for key in bucket.counts} == {9, 13, 17}
    by_name = {field.name: {value.text: value.count for value in field.values} for field in fields.fields}
    assert by_name == {"service": {"s0": 50}, "n": {"0": 17, "2": 17, "1": 16}}


@pytest.mark.parametrize(
    "broken",
    [
        LogBatch(ts_ns=[1, 2], severity_number=[9]),
        LogBatch(ts_ns=[1], severity_number=[25]),
        LogBatch(ts_ns=[1, 2, 3], body=TextColumn(values=["a", "b"])),
        LogBatch(ts_ns=[1, 2], body=TextColumn(values=["a"], indices=[0, 1])),
        LogBatch(ts_ns=[1], attributes=TextColumn(values=["[1]"])),
        LogBatch(ts_ns=[1], attributes=TextColumn(values=['{"a":'])),
        LogBatch(ts_ns=[1], body=TextColumn(values=["x" * (1 << 20) + "y"])),
    ],
)
async def test_a_malformed_batch_is_refused(url: str, broken: LogBatch) -> None:
    async with sink_on(url) as sink:
        with pytest.raises(BatchError):
            await sink.push(fields_of(broken), "p", 1, 0)
        assert sink.counters.rejected_batches == 1
        assert await sink.durable_seq("p") == 0
