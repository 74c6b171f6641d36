"""Answers as Prometheus' JSON. Pure.

Samples are written by hand: through `json` a large range takes several times as long.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from services.metrics.promql.data import Floats
from services.metrics.promql.labels import Labels
from services.metrics.promql.numbers import exchanged
from services.metrics.promql.tree import Kind
from services.metrics.query import Answer, Series


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
        result = f"[{','.join(_many(found.series))}]"
    return Text(f'{{"resultType":"{found.kind.value}","result":{result}}}')


def _metric(labels: Labels) -> str:
    return json.dumps(dict(labels), separators=(",", ":"))


class _Times(dict[int, str]):
    """What stands before a value, by its time: most series of an answer have the same times."""

    def __missing__(self, ts: int) -> str:
        made = self[ts] = f'"],[{_time(ts)},"'
        return made


def _many(series: Sequence[Series]) -> Iterator[str]:
    """Yield series with their samples, joined from pieces that are mostly shared."""
    texts = _numbers(np.concatenate([one.values for one in series])) if series else []
    times, end = _Times(), 0
    for one in series:
        start, end = end, end + len(one.ts)
        pieces = [""] * (2 * len(one.ts))
        pieces[0::2] = [times[ts] for ts in one.ts.tolist()]
        pieces[1::2] = texts[start:end]
        values = f'{"".join(pieces)[3:]}"]' if pieces else ""
        yield f'{{"metric":{_metric(one.labels)},"values":[{values}]}}'


def _numbers(values: Floats) -> list[str]:
    """Return numbers as Go writes them. Arrow finds their shortest texts in half the time that `repr` takes."""
    texts: list[str] = pa.array(values).cast(pa.string()).to_pylist()
    return [
        exchanged(value) if "e" in text or "n" in text else text
        for value, text in zip(values.tolist(), texts, strict=True)
    ]


def _sample(ts: int, value: float) -> str:
    return f'[{_time(ts)},"{exchanged(value)}"]'


def _time(ts: int) -> str:
    whole, left = divmod(ts, 1000)
    return f"{whole}.{left:03d}".rstrip("0") if left else str(whole)
