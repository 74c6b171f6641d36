from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh import correlation, tracing

TRACE, SPAN = b"4bf92f3577b34da6a3ce929d0e0e4736", b"00f067aa0ba902b7"


def test_what_is_made_is_read_again() -> None:
    for sampled in (True, False):
        made = tracing.make(TRACE, SPAN, sampled=sampled)
        assert tracing.parse(made) == (TRACE, SPAN, sampled)
        assert (tracing.is_sampled(made), tracing.span_of(made)) == (sampled, SPAN)


@pytest.mark.parametrize(
    ("flags", "sampled"), [(f"{number:02x}".encode(), bool(number & 1)) for number in (0, 1, 2, 3, 10, 11, 254, 255)]
)
def test_only_the_last_bit_of_the_flags_says_that_it_is_sampled(flags: bytes, sampled: bool) -> None:  # noqa: FBT001
    assert tracing.parse(b"00-%b-%b-%b" % (TRACE, SPAN, flags)) == (TRACE, SPAN, sampled)


def test_later_versions_are_read_as_far_as_they_are_known() -> None:
    assert tracing.parse(b"cc-%b-%b-01-what-comes-later" % (TRACE, SPAN)) == (TRACE, SPAN, True)


@pytest.mark.parametrize("value", [b"", b"00", b"ff-%b-%b-01" % (TRACE, SPAN), b"00-%b-%b-0g" % (TRACE, SPAN)])
def test_malformed(value: bytes) -> None:
    assert tracing.parse(value) is None


def test_new_span_ids_are_hexadecimal_and_differ() -> None:
    ids = [tracing.new_span_id() for _ in range(3000)]
    assert len(set(ids)) == len(ids)
    assert all(len(one) == 16 and not one.strip(b"0123456789abcdef") for one in ids)


def test_a_forked_child_makes_other_ids() -> None:
    tracing.new_span_id()
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write, tracing.new_span_id())
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        theirs = pipe.read()
    os.waitpid(child, 0)
    assert len(theirs) == 16
    assert theirs != tracing.new_span_id()


@given(st.integers(1, 2**128 - 1), st.floats(0, 1), st.floats(0, 1))
def test_a_share_is_that_of_opentelemetry_and_a_larger_one_has_all_of_a_smaller(
    number: int, one: float, other: float
) -> None:
    trace = b"%032x" % number
    less, more = sorted((one, other))
    kept = tracing.in_share(trace, tracing.threshold(less))
    assert kept is (number % 2**56 >= round((1 - less) * 2**56))
    assert tracing.in_share(trace, tracing.threshold(more)) or not kept


def test_all_and_none() -> None:
    for trace in (b"0" * 31 + b"1", b"f" * 32):
        assert tracing.in_share(trace, tracing.threshold(1))
        assert not tracing.in_share(trace, tracing.threshold(0))


def test_a_share_of_random_traces_is_about_as_large_as_was_asked_for() -> None:
    bound = tracing.threshold(0.25)
    kept = sum(tracing.in_share(tracing.new_trace_id(), bound) for _ in range(20_000))
    assert 4_500 < kept < 5_500  # eight standard deviations


def test_the_header_has_one_name() -> None:
    assert tracing.TRACEPARENT == correlation.TRACEPARENT
