"""A query as a tree: immutable, checked, times in milliseconds."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias, Union

from services.metrics.promql.matchers import Matcher


class Anchor(enum.Enum):
    """What `@ start()` and `@ end()` stand for: the first and the last step of the whole query."""

    START = "start()"
    END = "end()"


@dataclass(frozen=True, slots=True)
class When:
    """The modifiers `offset` and `@`."""

    offset_ms: int = 0
    at: int | Anchor | None = None


@dataclass(frozen=True, slots=True)
class Number:
    value: float


@dataclass(frozen=True, slots=True)
class Text:
    value: str


@dataclass(frozen=True, slots=True)
class Selector:
    """Series: those that fit all matchers of any of the alternatives."""

    matchers: tuple[tuple[Matcher, ...], ...]
    when: When = When()


@dataclass(frozen=True, slots=True)
class Range:
    """A selector's samples of the last `range_ms`."""

    selector: Selector
    range_ms: int


@dataclass(frozen=True, slots=True)
class Subquery:
    inner: Node
    range_ms: int
    # None is the default.
    step_ms: int | None
    when: When = When()


@dataclass(frozen=True, slots=True)
class Negated:
    inner: Node


@dataclass(frozen=True, slots=True)
class Call:
    function: str
    arguments: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Aggregation:
    op: str
    inner: Node
    parameter: Node | None
    # `without` these labels, or `by` them.
    without: bool
    labels: tuple[str, ...]


class Cardinality(enum.Enum):
    ONE_TO_ONE = "one-to-one"
    MANY_TO_ONE = "group_left"
    ONE_TO_MANY = "group_right"
    MANY_TO_MANY = "many-to-many"


@dataclass(frozen=True, slots=True)
class Matching:
    """How the series of both sides find each other."""

    cardinality: Cardinality
    # `on` these labels, or `ignoring` them.
    on: bool
    labels: tuple[str, ...]
    # What a result takes from the side of which there is one.
    include: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Binary:
    op: str
    left: Node
    right: Node
    matching: Matching
    # Compare to 0 or 1 instead of filtering.
    bool_: bool = False


Node: TypeAlias = Union[Number, Text, Selector, Range, Subquery, Negated, Call, Aggregation, Binary]  # noqa: UP007 - they name each other


class Kind(enum.Enum):
    """What a node's value is; the names are Prometheus' own."""

    SCALAR = "scalar"
    VECTOR = "vector"
    MATRIX = "matrix"
    STRING = "string"


SCALAR_FUNCTIONS = frozenset({"time", "pi", "scalar"})


def kind(node: Node) -> Kind:
    """Return what the value of a node is."""
    if isinstance(node, Number):
        return Kind.SCALAR
    if isinstance(node, Text):
        return Kind.STRING
    if isinstance(node, Range | Subquery):
        return Kind.MATRIX
    if isinstance(node, Negated):
        return kind(node.inner)
    if isinstance(node, Call):
        return Kind.SCALAR if node.function in SCALAR_FUNCTIONS else Kind.VECTOR
    if isinstance(node, Binary) and kind(node.left) is kind(node.right) is Kind.SCALAR:
        return Kind.SCALAR
    return Kind.VECTOR


def children(node: Node) -> Iterator[Node]:
    """Yield the nodes right below."""
    if isinstance(node, Range):
        yield node.selector
    elif isinstance(node, Subquery | Negated):
        yield node.inner
    elif isinstance(node, Call):
        yield from node.arguments
    elif isinstance(node, Aggregation):
        if node.parameter is not None:
            yield node.parameter
        yield node.inner
    elif isinstance(node, Binary):
        yield node.left
        yield node.right


def walk(node: Node) -> Iterator[Node]:
    """Yield a node and all below it."""
    yield node
    for child in children(node):
        yield from walk(child)
