"""A registry as series and values, and series that end."""

from __future__ import annotations

import math
import struct

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from mesh.telemetry.snapshot import Series, Snapshots

TARGET = {"job": "orders", "instance": "orders-1"}


def named(values: dict[Series, float]) -> dict[str, float]:
    return {dict(one.labels)["__name__"]: value for one, value in values.items()}


def test_a_registry_becomes_series_with_the_labels_of_the_instance() -> None:
    registry = CollectorRegistry()
    Counter("things", "All things.", ["job"], registry=registry).labels(job="own").inc(3)
    Histogram("took", "Time.", buckets=(1.0,), registry=registry).observe(0.5)
    values = Snapshots(registry, TARGET, 100).take()
    (things,) = [one for one in values if dict(one.labels)["__name__"] == "things_total"]
    assert dict(things.labels) == {"__name__": "things_total", "exported_job": "own", **TARGET}
    assert (things.type, things.help, values[things]) == ("counter", "All things.", 3)
    assert named(values).keys() == {"things_total", "took_bucket", "took_count", "took_sum"}, "and no _created"


def test_what_is_gone_ends_once() -> None:
    registry = CollectorRegistry()
    gauge = Gauge("room", "Room.", ["of"], registry=registry)
    gauge.labels(of="a").set(1)
    snapshots = Snapshots(registry, TARGET, 100)
    (series,) = snapshots.take()
    gauge.clear()
    ended = snapshots.take()
    assert list(ended) == [series]
    assert struct.pack("<d", ended[series]) == (0x7FF0000000000002).to_bytes(8, "little")
    assert snapshots.take() == {}
    gauge.labels(of="a").set(2)
    assert list(snapshots.take()) == [series]
    assert [math.isnan(value) for value in snapshots.end().values()] == [True]
    assert snapshots.end() == {}


def test_what_counts_and_is_new_was_nothing_before() -> None:
    registry = CollectorRegistry()
    calls = Counter("calls", "Calls.", ["code"], registry=registry)
    Gauge("room", "Room.", registry=registry).set(5)
    calls.labels("OK").inc(3)
    snapshots = Snapshots(registry, TARGET, 100)
    snapshots.take()
    assert snapshots.born == {}, "nobody looked before"
    calls.labels("INTERNAL").inc(100)
    Histogram("took", "Time.", buckets=(1.0,), registry=registry).observe(0.5)
    Gauge("load", "Load.", registry=registry).set(7)
    values = snapshots.take()
    assert {(dict(one.labels)["__name__"], value) for one, value in snapshots.born.items()} == {
        *(("calls_total", 0), ("took_bucket", 0), ("took_count", 0), ("took_sum", 0))
    }
    (born,) = [one for one in snapshots.born if one.type == "counter"]
    assert values[born] == 100
    snapshots.take()
    assert snapshots.born == {}


def test_what_the_service_would_refuse_is_left_out_and_counted() -> None:
    registry = CollectorRegistry()
    gauge = Gauge("room", "Room.", ["of"], registry=registry)
    for of in ("a", "b", "x" * 5000):
        gauge.labels(of=of).set(1)
    snapshots = Snapshots(registry, TARGET, 2)
    assert len(snapshots.take()) == 2
    assert snapshots.refused == 1
