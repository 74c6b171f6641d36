"""The spans of a trace as a tree, whatever they say of themselves, and what of it was the likely culprit. Pure.

Spans come as they are: some are missing, some are there twice, some name each other as parents. Each has at most one
parent in the tree, and no span is above itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from mesh.edge import EDGE_SERVICE

SERVER, CLIENT, PRODUCER, CONSUMER = 2, 3, 4, 5
ERROR = 2
# The gRPC codes of calls that did not fail: they succeeded, or nobody wanted their answer any more.
GOOD_CODES = ("", "OK", "CANCELLED")


class Timed(Protocol):
    """What makes a tree of spans."""

    @property
    def span_id(self) -> str: ...
    @property
    def parent_span_id(self) -> str: ...
    @property
    def start_ns(self) -> int: ...
    @property
    def end_ns(self) -> int: ...


class Told(Timed, Protocol):
    """What says whose fault it was."""

    @property
    def service(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def kind(self) -> int: ...
    @property
    def status(self) -> int: ...
    @property
    def rpc_status_code(self) -> str: ...
    @property
    def peer_service(self) -> str: ...


def failed(span: Told) -> bool:
    """Tell whether the span failed: its status is ERROR, or its gRPC code is none of OK and CANCELLED."""
    return span.status == ERROR or span.rpc_status_code not in GOOD_CODES


def parents(spans: Sequence[Timed]) -> list[int]:
    """Return for each span the place of its parent, -1 where that is not among them.

    Of several with one id the first in time is the parent. Where spans name each other in a circle, the first in time
    is the top of it.
    """
    order = sorted(range(len(spans)), key=lambda place: (spans[place].start_ns, -spans[place].end_ns, place))
    places: dict[str, int] = {}
    for place in order:
        places.setdefault(spans[place].span_id, place)
    above = [places.get(span.parent_span_id, -1) if span.parent_span_id else -1 for span in spans]
    # 0: not looked at; else the round in which it was: who is met again in its own round is in a circle.
    seen = [0] * len(spans)
    for number, first in enumerate(order, 1):
        place = first
        while place >= 0 and not seen[place]:
            seen[place] = number
            if above[place] >= 0 and seen[above[place]] == number:
                above[_earliest_of_circle(spans, above, place)] = -1
            place = above[place]
    return above


def _earliest_of_circle(spans: Sequence[Timed], above: Sequence[int], place: int) -> int:
    circle = [place]
    while (after := above[circle[-1]]) != place:
        circle.append(after)
    return min(circle, key=lambda one: (spans[one].start_ns, -spans[one].end_ns, one))


def children(spans: Sequence[Timed], above: Sequence[int]) -> list[list[int]]:
    """Return for each span the places of those right below it, by their start."""
    below: list[list[int]] = [[] for _ in above]
    for place in sorted(range(len(above)), key=lambda one: (spans[one].start_ns, -spans[one].end_ns, one)):
        if above[place] >= 0:
            below[above[place]].append(place)
    return below


def roots(spans: Sequence[Timed], above: Sequence[int]) -> list[int]:
    """Return the tops of the tree: those that began the trace first, then those whose parents are missing."""
    tops = [place for place, parent in enumerate(above) if parent < 0]
    return sorted(tops, key=lambda one: (bool(spans[one].parent_span_id), spans[one].start_ns, -spans[one].end_ns, one))


def depths(above: Sequence[int]) -> list[int]:
    """Return how many spans are above each."""
    found = [-1] * len(above)
    for first in range(len(above)):
        path, place = [], first
        while place >= 0 and found[place] < 0:
            path.append(place)
            place = above[place]
        depth = found[place] if place >= 0 else -1
        for one in reversed(path):
            depth += 1
            found[one] = depth
    return found


def culprit(spans: Sequence[Told], above: Sequence[int]) -> int:
    """Return the place of the span that most likely failed first, -1 when none failed.

    It is the deepest of the failures that went furthest up: one that was mended below, by a retry for example, is
    looked at only when nothing above it failed. Of several the one that ended first.
    """
    bad = [failed(span) for span in spans]
    depth = depths(above)
    top = [0] * len(spans)
    for place in sorted(range(len(spans)), key=lambda one: depth[one]):
        reached = bad[place] and above[place] >= 0 and bad[above[place]]
        top[place] = top[above[place]] if reached else depth[place]
    found = [place for place, one in enumerate(bad) if one]
    return min(found, key=lambda one: (top[one], -depth[one], spans[one].end_ns, one), default=-1)


def blamed(spans: Sequence[Told], above: Sequence[int]) -> tuple[str, str]:
    """Return the service and the name of what most likely failed first; empty texts when nothing failed.

    A call to a service of which there is no span, because it is down for example, is that service's.
    """
    place = culprit(spans, above)
    if place < 0:
        return "", ""
    span = spans[place]
    silent = calls_peer(span) and place not in above
    return span.peer_service if silent else span.service, span.name


def calls_peer(span: Told) -> bool:
    """Tell whether the span is a call to its peer service, and not one from there: a client's, or an edge's."""
    return bool(span.peer_service) and (span.kind == CLIENT or span.service == EDGE_SERVICE)
