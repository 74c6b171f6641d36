"""What the options of `mesh traces` mean."""

from __future__ import annotations

from typing import Any

import pytest

from mesh.api.tracesink.v1 import TraceFilter
from mesh.cli.traces.asking import length, make_filter
from mesh.errors import UsageError

NOW = 1_795_363_200_000_000_000
HOUR = 3600 * 10**9


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, TraceFilter(start_ns=NOW - HOUR, end_ns=NOW + HOUR)),
        ({"correlation_id": "c"}, TraceFilter(correlation_id="c")),
        (
            {"correlation_id": "c", "since": "2h", "until": "1h"},
            TraceFilter(correlation_id="c", start_ns=NOW - 2 * HOUR, end_ns=NOW - HOUR),
        ),
        (
            {
                "services": ["s"],
                "instances": ["i"],
                "method": "Get",
                "errors": True,
                "codes": ["NOT_FOUND"],
                "min_duration": "250ms",
                "max_duration": "1.5s",
                "attributes": ["order.id=7", "sku", "a=b=c"],
            },
            TraceFilter(
                start_ns=NOW - HOUR,
                end_ns=NOW + HOUR,
                services=["s"],
                instances=["i"],
                method="Get",
                errors=True,
                codes=["NOT_FOUND"],
                min_duration_ns=250_000_000,
                max_duration_ns=1_500_000_000,
                attributes={"order.id": "7", "sku": "", "a": "b=c"},
            ),
        ),
    ],
)
def test_options_make_a_filter(options: dict[str, Any], expected: TraceFilter) -> None:
    assert make_filter(now_ns=NOW, **options) == expected


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"since": "yesterday"}, "--since"),
        ({"since": "1h", "until": "2h"}, "--since"),
        ({"attributes": ["=7"]}, "--attr"),
        ({"min_duration": "long"}, "--min-duration"),
        ({"min_duration": "0s"}, "--min-duration"),
        ({"min_duration": "2s", "max_duration": "1s"}, "--max-duration"),
    ],
)
def test_what_makes_no_sense_is_said(options: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        make_filter(now_ns=NOW, **options)


def test_lengths() -> None:
    assert [length(text, "--x") for text in ("5ns", "1us", "1.5ms", "2m", "1h")] == [
        5,
        1_000,
        1_500_000,
        120 * 10**9,
        HOUR,
    ]
