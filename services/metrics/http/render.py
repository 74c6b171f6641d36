"""Answers as Prometheus' JSON. Pure.

Samples are written by hand: through `json` a large range takes several times as long.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from services.metrics.promql.data import Floats, Ints
from services.metrics.promql.labels import Labels
from services.metrics.promql.numbers import exchanged
from services.metrics.promql.tree import Kind
from services.metrics.query import Answer


def success(data: Any, warnings: Iterable[str] = ()) -> str:
    """Return a reply with data, which may be the text of JSON already (`Text`)."""
    body = data.json if isinstance(data, Text) else json.dumps(data, separators=(",", ":"))
    extra = f',"warnings":{json.dumps(list(warnings))}' if warnings else ""
    return f'{{"status":"success","data":{body}{extra}}}'


def failure(kind: str, message: str) -> str:
    return json.dumps({"status": "error", "errorType": kind, "error": message}, separators=(",", ":"))


class Text:
    """JSON that is text already."""

    def __init__(self, text: str) -> None:
        self.json = text


def answer(found: Answer) -> Text:
    """Return the data of an answer."""
    if found.kind is Kind.STRING:
        result = f"[{_time(int(found.series[0].ts[0]))},{json.dumps(found.text)}]"
    elif found.kind is Kind.SCALAR:
        result = _sample(int(found.series[0].ts[0]), float(found.series[0].values[0]))
    elif found.kind is Kind.VECTOR:
        parts = (
            f'{{"metric":{_metric(one.labels)},"value":{_sample(int(one.ts[-1]), float(one.values[-1]))}}}'
            for one in found.series
        )
        result = f"[{','.join(parts)}]"
    else:
        parts = (
            f'{{"metric":{_metric(one.labels)},"values":[{_samples(one.ts, one.values)}]}}' for one in found.series
        )
        result = f"[{','.join(parts)}]"
    return Text(f'{{"resultType":"{found.kind.value}","result":{result}}}')


def _metric(labels: Labels) -> str:
    return json.dumps(dict(labels), separators=(",", ":"))


def _samples(ts: Ints, values: Floats) -> str:
    return ",".join(map(_sample, ts.tolist(), values.tolist()))


def _sample(ts: int, value: float) -> str:
    text = repr(value)
    # As Go writes it, but for the ".0"; with an exponent, or no number at all, Go has its own ways.
    shown = exchanged(value) if "e" in text or "n" in text else text.removesuffix(".0")
    return f'[{_time(ts)},"{shown}"]'


def _time(ts: int) -> str:
    whole, left = divmod(ts, 1000)
    return f"{whole}.{left:03d}".rstrip("0") if left else str(whole)
