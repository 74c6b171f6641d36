"""What comes in as a query is hostile."""

from __future__ import annotations

import pytest

from services.metrics.promql.data import Budget, Steps
from services.metrics.promql.errors import LimitError, ParseError
from services.metrics.promql.evaluate import evaluate
from services.metrics.promql.matchers import Matcher, Op
from services.metrics.promql.parse import parse, parse_selector
from services.metrics.promql.plan import plan
from services.metrics.promql.tree import Kind, Selector, kind


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("(" * 200 + "x" + ")" * 200, "nest deeper"),
        ("-" * 1000 + "x", "operators"),
        ("x" + " + x" * 400, "operators"),
        ("x" + " or x" * 400, "operators"),
        ("x" * 100_000, "characters"),
        ("   ", "no expression"),
        ('x{a=~"(("}', "regex"),
        ('x{a=~"' + "a" * 5000 + '"}', "regular expression"),
        ("histogram_quantil(x)", "unknown function"),
        ("limitk(1, x)", "limitk() is not served"),
        ("mad_over_time(x[5m])", "mad_over_time() is not served"),
        ('label_replace(x, "a", "b", "c", time())', "string"),
        ("\x00", "parse error"),
        ("x{", "parse error"),
    ],
)
def test_a_bad_query_is_refused_in_one_sentence(query: str, says: str) -> None:
    with pytest.raises(ParseError, match=says.replace("(", r"\(").replace(")", r"\)")) as caught:
        parse(query)
    assert "\n" not in str(caught.value)


def test_brackets_in_strings_do_not_nest() -> None:
    assert isinstance(parse('x{a="' + "(" * 500 + '"}'), Selector)


def test_kinds() -> None:
    assert [kind(parse(text)) for text in ("x", "1", '"a"', "x[5m]", "time() + 1", "-x", "x[5m:1m]", "vector(1)")] == [
        *(Kind.VECTOR, Kind.SCALAR, Kind.STRING, Kind.MATRIX, Kind.SCALAR, Kind.VECTOR, Kind.MATRIX, Kind.VECTOR)
    ]


def test_only_a_plain_selector_is_one() -> None:
    assert parse_selector('up{job="a"}').matchers == (
        (Matcher("__name__", Op.EQUAL, "up"), Matcher("job", Op.EQUAL, "a")),
    )
    for text in ("up offset 5m", "sum(up)", "up[5m]", "1"):
        with pytest.raises(ParseError, match="plain series selector"):
            parse_selector(text)


def test_exact_values_are_told_from_a_matcher() -> None:
    assert Matcher("a", Op.MATCHES, "x|y|x").exact() == ("x", "y")
    assert Matcher("a", Op.MATCHES, "x.|y").exact() is None
    assert Matcher("a", Op.NOT_EQUAL, "x").exact() is None


def test_a_subquery_with_too_many_steps_is_refused() -> None:
    steps = Steps.range(0, 0, 1)
    with pytest.raises(LimitError, match="longer step"):
        plan(parse("sum_over_time(x[30d:1s])"), steps)


def test_an_evaluation_stops_when_told() -> None:
    def stop() -> None:
        raise LimitError("stop")

    with pytest.raises(LimitError, match="stop"):
        evaluate(parse("1 + 1"), Steps.range(0, 0, 1), {}, budget=Budget(tick=stop))
