from __future__ import annotations

import itertools
import struct

from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.engines.wire.framing import Meter

LIMIT = 100


def frame(message: bytes) -> bytes:
    return struct.pack(">BI", 0, len(message)) + message


def cut(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(one % (len(data) + 1) for one in cuts)})
    return [data[start:end] for start, end in itertools.pairwise(edges)]


@settings(deadline=None)
@given(st.lists(st.binary(max_size=LIMIT)), st.lists(st.integers(min_value=0)))
def test_counts_messages_however_they_are_cut(messages: list[bytes], cuts: list[int]) -> None:
    meter = Meter(LIMIT)
    for piece in cut(b"".join(map(frame, messages)), cuts):
        assert meter.feed(piece) == 0
    assert (meter.messages, meter.bytes) == (len(messages), sum(map(len, messages)))


@settings(deadline=None)
@given(st.lists(st.binary(max_size=LIMIT)), st.integers(LIMIT + 1, 2**32 - 1), st.lists(st.integers(min_value=0)))
def test_finds_the_first_message_over_the_limit(before: list[bytes], size: int, cuts: list[int]) -> None:
    meter = Meter(LIMIT)
    data = b"".join(map(frame, before)) + struct.pack(">BI", 1, size)
    found = [over for piece in cut(data, cuts) if (over := meter.feed(piece))]
    assert found == [size]


def test_a_message_that_is_cut_off_is_not_counted_as_complete() -> None:
    meter = Meter(LIMIT)
    assert meter.feed(frame(b"whole") + frame(b"cut off")[:-1]) == 0
    assert meter.messages == 1
