from __future__ import annotations

from typing import Any, NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.engines.wire.joining import join


class Data(NamedTuple):
    stream_id: int
    data: bytes
    end_stream: bool


class Other(NamedTuple):
    stream_id: int


EVENTS = st.lists(
    st.one_of(
        st.builds(Data, st.integers(1, 2), st.integers(0, 6000).map(bytes), st.booleans()),
        st.builds(Other, st.integers(1, 2)),
    ),
    min_size=2,
    max_size=30,
)


def story(events: list[Any]) -> dict[int, list[tuple[Any, ...]]]:
    """Return what happens on each stream, with the cuts between pieces of data taken out."""
    told: dict[int, list[tuple[Any, ...]]] = {}
    for event in events:
        stream = told.setdefault(event.stream_id, [])
        if isinstance(event, Other):
            stream.append(("other",))
        elif stream and stream[-1][0] == "data" and not stream[-1][2]:
            stream[-1] = ("data", stream[-1][1] + event.data, event.end_stream)
        else:
            stream.append(("data", event.data, event.end_stream))
    return told


@settings(deadline=None)
@given(EVENTS)
def test_joining_changes_nothing_but_the_cuts(events: list[Any]) -> None:
    assert story(join(events, Data)) == story(events)


def test_small_pieces_are_joined_and_large_ones_are_not() -> None:
    small = [Data(1, b"ab", end_stream=False)] * 3
    assert [event.data for event in join([*small], Data)] == [b"ababab"]
    turns = [Data(1, b"a", end_stream=False), Data(2, b"b", end_stream=False)] * 2
    assert [event.data for event in join([*turns], Data)] == [b"aa", b"bb"]
    large = [Data(1, bytes(16384), end_stream=False)] * 3
    assert join([*large], Data) == large
