"""Answers as Prometheus' JSON. Pure.

Samples are written by hand: through `json` a large range takes several times as long.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import orjson

from services.metrics.promql.data import Floats, Ints
from services.metrics.promql.labels import Labels
from services.metrics.promql.numbers import exchanged
from services.metrics.promql.tree import Kind
from services.metrics.query import Answer, Series

# Numbers from the one up to the other are written without an exponent, by orjson as by Go.
_SMALLEST, _WHOLE = 1e-4, 1e15


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
    try:
        return orjson.dumps(dict(labels)).decode()
    except TypeError:  # half of a surrogate pair, which only `json` writes
        return json.dumps(dict(labels), separators=(",", ":"))


def _many(series: Sequence[Series]) -> Iterator[str]:
    """Yield series with their samples: what stands around the values is made once for all that have the same times."""
    texts = _numbers(np.concatenate([one.values for one in series])) if series else []
    ts, around, end = None, "", 0
    for one in series:
        start, end = end, end + len(one.ts)
        if one.ts is not ts:
            ts, around = one.ts, _around(one.ts)
        yield f'{{"metric":{_metric(one.labels)},"values":[{around % tuple(texts[start:end])}]}}'


def _around(ts: Ints) -> str:
    """Return the text of samples at these times, with `%s` for each value."""
    return ",".join([f'[{text},"%s"]' for text in _numbers(ts / 1000)])


def _numbers(values: Floats) -> list[str]:
    """Return numbers as Go writes them; orjson finds their shortest texts in a fraction of the time of `repr`."""
    if not len(values):
        return []
    size = np.abs(values)
    with np.errstate(invalid="ignore"):  # NaN is one of them
        whole = (size < _WHOLE) & (values == np.rint(values))
    if whole.all() and not np.signbit(values).any():
        return _texts(values.astype(np.int64))
    texts = _texts(values)
    if whole.any():
        texts = [text.removesuffix(".0") for text in texts]
    for i in np.flatnonzero(~((size >= _SMALLEST) & (size < _WHOLE)) & (size != 0)).tolist():
        texts[i] = exchanged(float(values[i]))
    return texts


def _texts(numbers: Floats | Ints) -> list[str]:
    written = orjson.dumps(np.ascontiguousarray(numbers), option=orjson.OPT_SERIALIZE_NUMPY)
    return written[1:-1].decode().split(",")


def _sample(ts: int, value: float) -> str:
    return f'[{_time(ts)},"{exchanged(value)}"]'


def _time(ts: int) -> str:
    return repr(ts / 1000).removesuffix(".0")
