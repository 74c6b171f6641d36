from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.resilience.deadline import format_timeout, parse_timeout


@pytest.mark.parametrize(
    ("value", "seconds"),
    [(b"1H", 3600), (b"2M", 120), (b"3S", 3), (b"4m", 0.004), (b"5u", 5e-6), (b"6n", 6e-9), (b"99999999S", 99999999)],
)
def test_parses_every_unit(value: bytes, seconds: float) -> None:
    assert parse_timeout(value) == pytest.approx(seconds)


@pytest.mark.parametrize("value", [b"", b"S", b"1", b"1s", b"-1S", b"1.5S", b" 1S", b"123456789S", b"1SS", b"\xb2S"])
def test_refuses_what_is_malformed(value: bytes) -> None:
    assert parse_timeout(value) is None


@given(st.floats(1e-6, 1e8))
def test_what_is_left_survives_a_hop(seconds: float) -> None:
    value = format_timeout(seconds)
    assert len(value) <= 9
    back = parse_timeout(value)
    assert back is not None
    # Never longer than what was left, and at most one step of the unit shorter: a millisecond from a second on.
    step = max(seconds * 1e-4, 1e-3 if seconds >= 1 else 0.0) + 1e-8
    assert seconds - step <= back <= seconds * (1 + 1e-9) or seconds > 1e7


@pytest.mark.parametrize("seconds", [0, -1, -1e-9])
def test_what_is_past_is_nothing(seconds: float) -> None:
    assert parse_timeout(format_timeout(seconds)) == 0
