"""Answers as JSON: numbers as Go writes them, times without what they do not need."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.metrics.errors import InvalidError
from services.metrics.http.parameters import Parameters
from services.metrics.http.render import answer, failure, success
from services.metrics.promql.numbers import exchanged, formatted
from services.metrics.promql.tree import Kind
from services.metrics.query import Answer, Series
from tests.unit.services.metrics.helpers import NOW, labels


@pytest.mark.parametrize(
    ("value", "text", "exact"),
    [
        (1.0, "1", "1"),
        (0.1, "0.1", "0.1"),
        (1e20, "100000000000000000000", "100000000000000000000"),
        (1e21, "1e+21", "1000000000000000000000"),
        (1.5e300, "1.5e+300", "15" + "0" * 299),
        (1e-6, "0.000001", "0.000001"),
        (1.25e-7, "1.25e-07", "0.000000125"),
        (-2.5e-10, "-2.5e-10", "-0.00000000025"),
        (float("nan"), "NaN", "NaN"),
        (float("-inf"), "-Inf", "-Inf"),
        (0.0, "0", "0"),
        (-0.0, "-0", "-0"),
    ],
)
def test_numbers(value: float, text: str, exact: str) -> None:
    assert (exchanged(value), formatted(value)) == (text, exact)


@given(st.lists(st.floats(), min_size=1, max_size=6))
def test_a_series_is_the_same_numbers_again(values: list[float]) -> None:
    ts = np.arange(len(values), dtype=np.int64) * 500 + NOW
    found = Answer(Kind.MATRIX, [Series(labels("a", b='c"\n'), ts, np.array(values))])
    (series,) = json.loads(success(answer(found)))["data"]["result"]
    assert series["metric"] == {"__name__": "a", "b": 'c"\n'}
    assert [at for at, _ in series["values"]] == [NOW / 1000 + i * 0.5 for i in range(len(values))]
    assert [text for _, text in series["values"]] == [exchanged(value) for value in values]
    read = [float(text) for _, text in series["values"]]
    assert np.array_equal(read, values, equal_nan=True)


def test_other_kinds() -> None:
    one = Series((), np.array([NOW]), np.array([1.5]))
    assert json.loads(success(answer(Answer(Kind.SCALAR, [one]))))["data"] == {
        "resultType": "scalar",
        "result": [NOW / 1000, "1.5"],
    }
    text = json.loads(success(answer(Answer(Kind.STRING, [one], 'say "hi"'))))["data"]["result"]
    assert text == [NOW / 1000, 'say "hi"']
    assert json.loads(success(answer(Answer(Kind.VECTOR, []))))["data"]["result"] == []
    assert json.loads(failure("bad_data", "no")) == {"status": "error", "errorType": "bad_data", "error": "no"}


def test_parameters() -> None:
    given = Parameters([("t", "1700000000.5"), ("z", "2023-11-14T22:13:20Z"), ("d", "1m30s"), ("n", "5"), ("m", "a")])
    assert (given.time("t"), given.time("z"), given.time("x")) == (NOW + 500, NOW, None)
    assert (given.duration("d"), given.duration("n"), given.count("n"), given.all("m")) == (90.0, 5.0, 5, ["a"])
    for bad in ("t", "z", "m"):
        with pytest.raises(InvalidError, match=f'"{bad}"'):
            given.count(bad)
    for text in ("nan", "inf", "1e99", "tomorrow", "-1h"):
        with pytest.raises(InvalidError, match='"t"'):
            Parameters([("t", text)]).time("t")
        with pytest.raises(InvalidError, match='"t"'):
            Parameters([("t", text)]).duration("t")
