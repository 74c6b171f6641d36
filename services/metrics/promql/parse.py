"""From text to tree: `promql-parser` parses, and what it lets through is checked here."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any

import promql_parser

from services.metrics.promql.errors import ParseError
from services.metrics.promql.functions import FUNCTIONS
from services.metrics.promql.labels import NAME
from services.metrics.promql.matchers import Matcher, Op
from services.metrics.promql.tree import (
    Aggregation,
    Anchor,
    Binary,
    Call,
    Cardinality,
    Matching,
    Negated,
    Node,
    Number,
    Range,
    Selector,
    Subquery,
    Text,
    When,
)

MAX_QUERY = 32 * 1024
# The parser recurses: what nests deeper would end the process, not the query.
MAX_NESTING = 100
MAX_OPERATORS = 300
# Queries whose trees are kept: panels and rules ask the same again and again. Longer ones are parsed each time.
_KEPT, _KEPT_CHARACTERS = 256, 1024
AGGREGATIONS = frozenset(
    ("sum", "avg", "min", "max", "count", "group", "stddev", "stdvar", "topk", "bottomk", "quantile", "count_values")
)

_OPS = {"Equal": Op.EQUAL, "NotEqual": Op.NOT_EQUAL, "Re": Op.MATCHES, "NotRe": Op.MATCHES_NOT}
_CARDINALITIES = {
    "OneToOne": Cardinality.ONE_TO_ONE,
    "ManyToOne": Cardinality.MANY_TO_ONE,
    "OneToMany": Cardinality.ONE_TO_MANY,
    "ManyToMany": Cardinality.MANY_TO_MANY,
}
# What the parser knows by its name in Prometheus 3 alone.
promql_parser.register_extra_functions(
    [
        promql_parser.Function(
            "holt_winters",
            [promql_parser.ValueType.Matrix, promql_parser.ValueType.Scalar, promql_parser.ValueType.Scalar],
            promql_parser.ValueType.Vector,
        )
    ]
)
_TOKEN = re.compile(
    r""""(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|`[^`]*`|\#[^\n]*"""
    r"""|(?P<open>[(\[{])|(?P<close>[)\]}])|(?P<operator>[-+*/%^]|[=!<>]=?~?|\b(?:and|or|unless|atan2)\b)""",
    re.IGNORECASE | re.DOTALL,
)
_SET = frozenset({"and", "or", "unless"})
_LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")


def parse(text: str) -> Node:
    """Return the tree of a query.

    Raises:
        ParseError: it is no PromQL, or of a part of it that is not served; the message says what.

    """
    return _parse_again(text) if len(text) <= _KEPT_CHARACTERS else _parse(text)


def _parse(text: str) -> Node:
    _bounded(text)
    try:
        return _node(promql_parser.parse(text))
    except ValueError as error:
        raise ParseError(f"parse error: {' '.join(str(error).split()) or 'this is no PromQL'}") from error


# Trees are frozen, so that whoever has one may share it; errors are not kept.
_parse_again = lru_cache(_KEPT)(_parse)


def parse_selector(text: str) -> Selector:
    """Return a plain series selector, as `match[]` takes it.

    Raises:
        ParseError: it is anything else.

    """
    node = parse(text)
    if not isinstance(node, Selector) or node.when != When():
        raise ParseError(f"parse error: '{text[:200]}' is not a plain series selector, such as up{{job=\"edge\"}}")
    return node


def _bounded(text: str) -> None:
    if len(text) > MAX_QUERY:
        raise ParseError(f"parse error: the query has {len(text)} characters; at most {MAX_QUERY} are served")
    if not text.strip():
        raise ParseError("parse error: no expression found in input")
    depth = operators = 0
    for token in _TOKEN.finditer(text):
        if token["open"]:
            depth += 1
            if depth > MAX_NESTING:
                raise ParseError(f"parse error: brackets nest deeper than {MAX_NESTING}")
        elif token["close"]:
            depth -= 1
        elif token["operator"]:
            operators += 1
    if operators > MAX_OPERATORS:
        raise ParseError(f"parse error: the query has {operators} operators; at most {MAX_OPERATORS} are served")


def _node(expr: Any) -> Node:
    return _MAKERS[type(expr)](expr)


def _number(expr: Any) -> Node:
    return Number(expr.val)


def _text(expr: Any) -> Node:
    return Text(expr.val)


def _paren(expr: Any) -> Node:
    return _node(expr.expr)


def _unary(expr: Any) -> Node:
    inner = _node(expr.expr)
    return Number(-inner.value) if isinstance(inner, Number) else Negated(inner)


def _selector(expr: Any) -> Selector:
    named = (Matcher(NAME, Op.EQUAL, expr.name),) if expr.name else ()
    common = tuple(map(_matcher, expr.matchers.matchers))
    groups = expr.matchers.or_matchers or [[]]
    alternatives = tuple((*named, *common, *map(_matcher, group)) for group in groups)
    return Selector(alternatives, _when(expr))


def _matcher(matcher: Any) -> Matcher:
    made = Matcher(matcher.name, _OPS[_name(matcher.op)], matcher.value)
    made.test()  # so that a broken expression is an error of the query, before anything is read
    return made


def _range(expr: Any) -> Node:
    return Range(_selector(expr.vector_selector), _ms(expr.range))


def _subquery(expr: Any) -> Node:
    step = _ms(expr.step) if expr.step is not None else None
    return Subquery(_node(expr.expr), _ms(expr.range), step or None, _when(expr))


def _when(expr: Any) -> When:
    at: int | Anchor | None = None
    if expr.at is not None:
        kind = _name(expr.at.type)
        at = Anchor.START if kind == "Start" else Anchor.END if kind == "End" else _epoch_ms(expr.at.at)
    return When(_ms(expr.offset) if expr.offset is not None else 0, at)


def _call(expr: Any) -> Node:
    name = expr.func.name
    function = FUNCTIONS.get(name)
    if function is None:
        raise ParseError(f"parse error: the function {name}() is not served")
    arguments = tuple(map(_node, expr.args))
    for place in function.texts:
        if place < len(arguments) and not isinstance(arguments[place], Text):
            raise ParseError(f"parse error: argument {place + 1} of {name}() is not a string")
    return Call(name, arguments)


def _aggregation(expr: Any) -> Node:
    op = str(expr.op)
    if op not in AGGREGATIONS:
        raise ParseError(f"parse error: the aggregation {op}() is not served")
    modifier = expr.modifier
    without = modifier is not None and _name(modifier.type) == "Without"
    labels = tuple(modifier.labels) if modifier is not None else ()
    parameter = _node(expr.param) if expr.param is not None else None
    if op == "count_values" and not (isinstance(parameter, Text) and _LABEL.fullmatch(parameter.value)):
        raise ParseError("parse error: count_values() needs the name of a label as a string")
    return Aggregation(op, _node(expr.expr), parameter, without, labels)


def _binary(expr: Any) -> Node:
    op, modifier = str(expr.op), expr.modifier
    cardinality = Cardinality.MANY_TO_MANY if op in _SET else Cardinality.ONE_TO_ONE
    on, labels, include, as_bool = False, (), (), False
    if modifier is not None:
        as_bool = modifier.return_bool
        if op not in _SET:
            cardinality = _CARDINALITIES[_name(modifier.card)]
        if modifier.matching is not None:
            on = _name(modifier.matching.type) == "Include"
            labels = tuple(modifier.matching.labels)
        include = tuple(modifier.group_labels or ())
        fill = modifier.fill_values
        if fill is not None and (fill.lhs is not None or fill.rhs is not None):
            raise ParseError("parse error: the modifiers fill, fill_left and fill_right are not served")
    return Binary(op, _node(expr.lhs), _node(expr.rhs), Matching(cardinality, on, labels, include), as_bool)


def _name(member: Any) -> str:
    """Return the name of a member of one of the parser's enumerations, which cannot be keys of a dict."""
    return str(member).rpartition(".")[2]


def _ms(duration: timedelta) -> int:
    return round(duration / timedelta(milliseconds=1))


def _epoch_ms(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)


_MAKERS = {
    promql_parser.NumberLiteral: _number,
    promql_parser.StringLiteral: _text,
    promql_parser.ParenExpr: _paren,
    promql_parser.UnaryExpr: _unary,
    promql_parser.VectorSelector: _selector,
    promql_parser.MatrixSelector: _range,
    promql_parser.SubqueryExpr: _subquery,
    promql_parser.Call: _call,
    promql_parser.AggregateExpr: _aggregation,
    promql_parser.BinaryExpr: _binary,
}
