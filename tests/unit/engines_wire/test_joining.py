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


def story(events: list[Any]) -> list[tuple[Any, ...]]:
    """Return what happens, with the cuts between pieces taken out."""
    told: list[tuple[Any, ...]] = []
    for event in events:
        if isinstance(event, Other):
            told.append(("other", event.stream_id))
            continue
        last = told[-1] if told else ()
        if last[:2] == ("data", event.stream_id) and not last[3]:
            told[-1] = ("data", event.stream_id, last[2] + event.data, event.end_stream)
        else:
            told.append(("data", event.stream_id, event.data, event.end_stream))
    return told


@settings(deadline=None)
@given(EVENTS)
def test_joining_changes_nothing_but_the_cuts(events: list[Any]) -> None:
    assert story(join(events, Data)) == story(events)


def test_small_pieces_are_joined_and_large_ones_are_not() -> None:
    small = [Data(1, b"ab", end_stream=False)] * 3
    assert [event.data for event in join([*small], Data)] == [b"ababab"]
    large = [Data(1, bytes(16384), end_stream=False)] * 3
    assert join([*large], Data) == large
