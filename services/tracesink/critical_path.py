"""Which spans made a trace take as long as it did. Pure.

From the end of the first span backwards: what ended last before held it up, for as long as that lasted, and within
that what ended last, and so on. The time between belongs to the span itself. A span that is still under way when a
sibling begins did not hold that one up, and is not on the path there.

Clocks of hosts differ: a span counts as far as it lies within its parent.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from services.tracesink.trees import Timed, children, roots


class Stretch(NamedTuple):
    """From `start_ns` up to `end_ns` the span at `place` held the trace up."""

    place: int
    start_ns: int
    end_ns: int


def critical_path(spans: Sequence[Timed], above: Sequence[int]) -> list[Stretch]:
    """Return the path through the first root: stretches, oldest first, without gaps, that cover all of it.

    `above` has the place of each span's parent, or -1, as `trees.parents` returns it.
    """
    tops = roots(spans, above)
    if not tops:
        return []
    below = children(spans, above)
    within = clamped(spans, tops[0], below)
    now = within[tops[0]][1]
    found: list[Stretch] = []
    # Spans that are gone into: which one, the time down to which it is told, and its children, the last end at the end.
    stack = [(tops[0], _by_end(below[tops[0]], within))]
    while stack:
        place, waiting = stack[-1]
        while waiting and within[waiting[-1]][1] > now:
            waiting.pop()
        if waiting:
            child = waiting.pop()
            ended = within[child][1]
            if ended < now:
                found.append(Stretch(place, ended, now))
            now = ended
            stack.append((child, _by_end(below[child], within)))
            continue
        start = within[place][0]
        if start < now:
            found.append(Stretch(place, start, now))
        now = start
        stack.pop()
    found.reverse()
    return found


def clamped(spans: Sequence[Timed], root: int, below: Sequence[Sequence[int]]) -> dict[int, tuple[int, int]]:
    """Return the times of the root and all below it, each within its parent's."""
    within = {root: (spans[root].start_ns, max(spans[root].start_ns, spans[root].end_ns))}
    waiting = [root]
    while waiting:
        place = waiting.pop()
        first, last = within[place]
        for child in below[place]:
            start = min(max(spans[child].start_ns, first), last)
            within[child] = (start, min(max(spans[child].end_ns, start), last))
            waiting.append(child)
    return within


def _by_end(places: Sequence[int], within: dict[int, tuple[int, int]]) -> list[int]:
    """Return those that last, by their end; of two with one end the longer is the later."""
    lasting = [place for place in places if within[place][0] < within[place][1]]
    return sorted(lasting, key=lambda place: (within[place][1], -within[place][0], -place))


def self_times(spans: Sequence[Timed], below: Sequence[Sequence[int]]) -> list[int]:
    """Return for each span how long nothing below it was under way, in nanoseconds."""
    return [
        max(0, span.end_ns - span.start_ns) - _covered(span, [spans[child] for child in below[place]])
        for place, span in enumerate(spans)
    ]


def _covered(span: Timed, inside: Sequence[Timed]) -> int:
    """Return for how much of the span's time at least one of the others was under way."""
    total, reached = 0, span.start_ns
    for one in sorted(inside, key=lambda other: other.start_ns):
        end = min(one.end_ns, span.end_ns)
        total += max(0, end - max(reached, one.start_ns))
        reached = max(reached, end)
    return total
