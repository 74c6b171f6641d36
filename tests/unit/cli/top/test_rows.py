from __future__ import annotations

import math

import pytest

from mesh.api.metrics.v1 import TimeSeries
from mesh.cli.top.rows import duration, lines, queries, rows, structure


def series(value: float, **labels: str) -> TimeSeries:
    return TimeSeries(labels=labels, times_ms=[1], values=[value])


def answers(by: str, **given: list[TimeSeries]) -> dict[str, list[TimeSeries]]:
    return {name: given.get(name.replace(".", "_"), []) for name in queries(by, "30s")}


BUSY = answers(
    "service",
    calls=[series(4, service="stock"), series(200, service="orders"), series(9, service="mesh-control")],
    errors=[series(1, service="stock")],
    in_flight=[series(3, service="orders"), series(0, service="stock")],
    breaker=[series(2, service="stock"), series(0, service="orders"), series(0, service="idle")],
    p0_5=[series(0.0021, service="orders"), series(math.nan, service="stock")],
    p0_99=[series(1.25, service="orders")],
)


def test_the_busiest_come_first_and_the_mesh_itself_only_when_asked_for() -> None:
    found = rows("service", BUSY)
    assert [row.key for row in found] == [("orders",), ("stock",), ("idle",)]
    assert [row.key[0] for row in rows("service", BUSY, everything=True)][1] == "mesh-control"
    orders, stock, idle = found
    assert (orders.calls, orders.errors, orders.in_flight, orders.breaker) == (200, 0, 3, 0)
    assert orders.quantiles == (0.0021, None, 1.25)
    assert (stock.share, stock.breaker, stock.quantiles) == (0.25, 2, (None, None, None))
    assert (idle.calls, idle.share) == (0, 0)


def test_a_table_that_people_read() -> None:
    assert lines("service", rows("service", BUSY)) == [
        "SERVICE  CALLS/S  ERRORS  IN FLIGHT  P50     P95  P99     BREAKER",
        "orders   200      0 %     3          2.1 ms  -    1.25 s  closed",
        "stock    4        25 %    0          -       -    -       OPEN",
        "idle     0        -       0          -       -    -       closed",
    ]
    assert "every 10 s" in lines("service", [])[0]


def test_methods_have_the_breaker_of_their_service_and_no_rows_without_calls() -> None:
    found = rows(
        "method",
        answers(
            "method",
            calls=[series(1, service="orders", method="shop.v1.Orders/Get")],
            breaker=[series(1, service="orders"), series(2, service="stock")],
        ),
    )
    assert [(row.key, row.breaker) for row in found] == [(("orders", "shop.v1.Orders/Get"), 1)]


def test_instances_are_told_by_the_edges_without_latencies() -> None:
    found = rows(
        "instance",
        answers(
            "instance",
            calls=[series(2, service="orders", exported_instance="orders-1")],
            breaker=[series(2, service="orders", exported_instance="orders-1")],
        ),
    )
    assert lines("instance", found) == [
        "SERVICE  INSTANCE  CALLS/S  ERRORS  IN FLIGHT  BREAKER",
        "orders   orders-1  2        0 %     0          OPEN",
    ]
    (one,) = structure("instance", found)
    assert one == {
        "service": "orders",
        "instance": "orders-1",
        "calls_per_second": 2,
        "errors_per_second": 0,
        "error_share": 0,
        "in_flight": 0,
        "breaker": "open",
    }


def test_what_servers_tell_goes_before_what_edges_saw_of_the_same_calls() -> None:
    given = {
        **BUSY,
        "served calls": [series(300, job="orders"), series(7, job="payments")],
        "served errors": [series(30, job="orders")],
        "served p0.5": [series(0.004, job="orders")],
        "clients breaker": [series(2, peer_service="payments"), series(1, peer_service="orders")],
    }
    assert given.keys() <= queries("service", "30s").keys()
    orders, payments, stock, idle = rows("service", given)
    assert (orders.key, orders.calls, orders.errors, orders.in_flight) == (("orders",), 300, 30, 0)
    assert orders.quantiles == (0.004, None, None), "none of another source beside them"
    assert (payments.key, payments.calls, payments.breaker) == (("payments",), 7, 2)
    assert (stock.key, stock.calls, stock.errors) == (("stock",), 4, 1)
    assert (orders.breaker, stock.breaker, idle.breaker) == (1, 2, 0), "the worst of edges and clients"


@pytest.mark.parametrize(
    ("by", "served", "edges", "key"),
    [
        (
            "method",
            {"job": "orders", "rpc_method": "a.B/C"},
            {"service": "orders", "method": "a.B/C"},
            ("orders", "a.B/C"),
        ),
        (
            "instance",
            {"job": "orders", "instance": "orders-1"},
            {"service": "orders", "exported_instance": "orders-1"},
            ("orders", "orders-1"),
        ),
    ],
)
def test_a_method_or_an_instance_has_one_row(
    by: str, served: dict[str, str], edges: dict[str, str], key: tuple[str, ...]
) -> None:
    given = {"served calls": [series(3, **served)], "calls": [series(2, **edges)]}
    assert given.keys() <= queries(by, "30s").keys()
    (row,) = rows(by, given)
    assert (row.key, row.calls) == (key, 3)


def test_data_has_latencies_in_seconds() -> None:
    first = structure("service", rows("service", BUSY))[0]
    assert (first["service"], first["p50_seconds"], first["p95_seconds"], first["p99_seconds"]) == (
        "orders",
        0.0021,
        None,
        1.25,
    )


@pytest.mark.parametrize(("value", "text"), [(None, "-"), (2, "2 s"), (0.25, "250 ms"), (0.00042, "420 µs")])
def test_durations(value: float | None, text: str) -> None:
    assert duration(value) == text
