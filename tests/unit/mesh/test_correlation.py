from __future__ import annotations

import os

import pytest

from mesh import correlation


@pytest.mark.parametrize("value", [b"a", b"order-42", b"A.b_C:d-9", b"x" * 128])
def test_well_formed(value: bytes) -> None:
    assert correlation.well_formed(value)


@pytest.mark.parametrize("value", [b"", b"x" * 129, b"a b", b"a\n", b"a/b", "ä".encode(), b"a\x00", b'"'])
def test_malformed(value: bytes) -> None:
    assert not correlation.well_formed(value)


def test_new_ids_are_well_formed_and_differ() -> None:
    ids = [correlation.new_id() for _ in range(2000)]
    assert len(set(ids)) == len(ids)
    assert all(len(one) == 32 and correlation.well_formed(one) for one in ids)


def test_a_forked_child_makes_other_ids() -> None:
    correlation.new_id()
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write, correlation.new_id())
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        theirs = pipe.read()
    os.waitpid(child, 0)
    assert len(theirs) == 32
    assert theirs != correlation.new_id()


TRACE = b"4bf92f3577b34da6a3ce929d0e0e4736"


def test_trace_id_of_a_traceparent() -> None:
    assert correlation.trace_id(b"00-" + TRACE + b"-00f067aa0ba902b7-01") == TRACE
    assert correlation.trace_id(b"cc-" + TRACE + b"-00f067aa0ba902b7-01-what-comes-later") == TRACE


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"ff-" + TRACE + b"-00f067aa0ba902b7-01",
        b"00-" + b"0" * 32 + b"-00f067aa0ba902b7-01",
        b"00-" + TRACE + b"-" + b"0" * 16 + b"-01",
        b"00-" + TRACE.upper() + b"-00f067aa0ba902b7-01",
        b"00-" + TRACE + b"-00f067aa0ba902b7",
    ],
)
def test_malformed_traceparents_have_no_trace_id(value: bytes) -> None:
    assert correlation.trace_id(value) is None
