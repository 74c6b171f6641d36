"""Trees, critical paths and self times of spans, against oracles that try each moment."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from services.tracesink.critical_path import Stretch, clamped, critical_path, self_times
from services.tracesink.trees import blamed, children, culprit, depths, parents, roots


@dataclass
class One:
    span_id: str
    parent_span_id: str
    start_ns: int
    end_ns: int
    service: str = ""
    name: str = ""
    kind: int = 0
    status: int = 0
    rpc_status_code: str = ""
    peer_service: str = ""


SPANS = st.lists(
    st.builds(
        One,
        st.integers(0, 9).map(str),
        st.one_of(st.just(""), st.integers(0, 11).map(str)),
        st.integers(0, 20),
        st.integers(0, 24),
        status=st.sampled_from((0, 1, 2)),
        rpc_status_code=st.sampled_from(("", "OK", "UNAVAILABLE", "CANCELLED")),
    ),
    min_size=1,
    max_size=10,
)


@settings(max_examples=300, deadline=None, database=None, derandomize=True)
@given(SPANS)
def test_a_tree_is_one_whatever_spans_say(spans: list[One]) -> None:
    above = parents(spans)
    for place, parent in enumerate(above):
        steps, at = 0, place
        while at >= 0:
            at, steps = above[at], steps + 1
            assert steps <= len(spans)
        assert depths(above)[place] == steps - 1
        if parent >= 0:
            assert spans[parent].span_id == spans[place].parent_span_id
        else:
            # Only a span whose parent is missing, or who closes a circle, has none.
            wanted = [n for n, one in enumerate(spans) if one.span_id == spans[place].parent_span_id]
            first = min(wanted, key=lambda n: (spans[n].start_ns, -spans[n].end_ns, n), default=-1)
            assert first < 0 or place in ancestors(above, first) | {first}
    below = children(spans, above)
    assert sorted(roots(spans, above) + [child for one in below for child in one]) == list(range(len(spans)))


def ancestors(above: list[int], place: int) -> set[int]:
    found = set()
    while (place := above[place]) >= 0:
        found.add(place)
    return found


def walked(spans: list[One], above: list[int]) -> list[Stretch]:
    """Walk back through the trace, one tick at a time."""
    root = roots(spans, above)[0]
    below = children(spans, above)
    within = clamped(spans, root, below)
    ticks: list[tuple[int, int]] = []
    path, now = [root], within[root][1]
    while path:
        here = path[-1]
        ends_now = [n for n in below[here] if within[n][1] == now and within[n][0] < now]
        if ends_now:
            path.append(min(ends_now, key=lambda n: (within[n][0], n)))
        elif now == within[here][0]:
            path.pop()
        else:
            now -= 1
            ticks.append((here, now))
    found: list[Stretch] = []
    for place, tick in reversed(ticks):
        if found and found[-1].place == place:
            found[-1] = Stretch(place, found[-1].start_ns, tick + 1)
        else:
            found.append(Stretch(place, tick, tick + 1))
    return found


@settings(max_examples=500, deadline=None, database=None, derandomize=True)
@given(SPANS)
def test_a_critical_path_is_what_a_walk_back_finds(spans: list[One]) -> None:
    above = parents(spans)
    found = critical_path(spans, above)
    root = roots(spans, above)[0]
    # In order, without gaps, and as long as the first span.
    times = [spans[root].start_ns, *(end for _, _, end in found)]
    assert [start for _, start, _ in found] == times[:-1]
    assert times[-1] == max(spans[root].start_ns, spans[root].end_ns)
    assert all(start < end for _, start, end in found)
    assert found == walked(spans, above)


@settings(max_examples=200, deadline=None, database=None, derandomize=True)
@given(SPANS)
def test_self_time_is_when_nothing_below_is_under_way(spans: list[One]) -> None:
    below = children(spans, parents(spans))
    wanted = [
        sum(
            not any(spans[child].start_ns <= tick < spans[child].end_ns for child in below[place])
            for tick in range(span.start_ns, span.end_ns)
        )
        for place, span in enumerate(spans)
    ]
    assert self_times(spans, below) == wanted


def test_the_path_through_calls_in_turn_and_at_once() -> None:
    spans = [
        One("root", "", 0, 100),
        One("first", "root", 10, 40),
        One("inner", "first", 20, 35),
        One("long", "root", 45, 90),
        One("short", "root", 50, 60),
        One("skewed", "long", 80, 120),
    ]
    path = critical_path(spans, parents(spans))
    assert [(spans[place].span_id, start, end) for place, start, end in path] == [
        ("root", 0, 10),
        ("first", 10, 20),
        ("inner", 20, 35),
        ("first", 35, 40),
        ("root", 40, 45),
        ("long", 45, 80),
        ("skewed", 80, 90),
        ("root", 90, 100),
    ]


def test_the_culprit_is_the_deepest_failure_that_went_up() -> None:
    spans = [
        One("edge", "", 0, 9, "edge", "Place", kind=2, rpc_status_code="UNAVAILABLE"),
        One("shop", "edge", 1, 8, "shop", "Place", kind=2, status=2),
        One("pay", "shop", 2, 7, "shop", "Charge", kind=3, rpc_status_code="UNAVAILABLE", peer_service="payments"),
        # Mended by a retry.
        One("stock", "shop", 2, 7, "shop", "Reserve", kind=3),
        One("try 1", "stock", 2, 3, "shop", "Reserve", kind=3, status=2),
        One("try 1 there", "try 1", 2, 3, "stock", "Reserve", kind=2, status=2),
    ]
    above = parents(spans)
    assert spans[culprit(spans, above)].span_id == "pay"
    # It sends no spans: its caller's speak for it.
    assert blamed(spans, above) == ("payments", "Charge")
    spans.append(One("there", "pay", 3, 6, "payments", "Charge", kind=2, status=2))
    assert blamed(spans, parents(spans)) == ("payments", "Charge")
    fine = [span for span in spans if span.span_id in ("stock", "try 1", "try 1 there")]
    assert blamed(fine, parents(fine)) == ("stock", "Reserve")
    assert blamed(fine[:1], parents(fine[:1])) == ("", "")


def test_a_trace_of_ten_thousand_spans_in_a_row() -> None:
    count = 10_000
    spans = [One(str(n), str(n - 1) if n else "", n, 3 * count - n) for n in range(count)]
    path = critical_path(spans, parents(spans))
    assert len(path) == 2 * count - 1
