"""Bytes become lines, and lines events: nothing is lost, and traces stay together."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.telemetry.collect import lines as cutting
from mesh.telemetry.collect.lines import Cutter
from mesh.telemetry.formats import events
from mesh.telemetry.formats.events import Joiner


@given(st.binary(max_size=200), st.lists(st.integers(0, 30), max_size=20), st.integers(0, 1000))
def test_lines_are_those_of_the_whole_however_they_come(data: bytes, cuts: list[int], start: int) -> None:
    cutter = Cutter(start)
    found: list[tuple[str, int]] = []
    place = 0
    for cut in [*cuts, len(data)]:
        found += cutter.feed(data[place : place + cut])
        place += cut
    found += cutter.last()
    whole = data.split(b"\n")
    if not whole[-1]:
        whole.pop()
    assert [text for text, _ in found] == [line.removesuffix(b"\r").decode(errors="replace") for line in whole]
    ends = [start + sum(len(line) + 1 for line in whole[: count + 1]) for count in range(len(whole))]
    assert [end for _, end in found] == [min(end, start + len(data)) for end in ends]


def test_long_lines_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cutting, "MAX_LINE", 10)
    cutter = Cutter()
    assert list(cutter.feed(b"x" * 25)) == [("x" * 10, 10), ("x" * 10, 20)]
    assert list(cutter.feed(b"\nshort\n" + b"y" * 12 + b"\n")) == [
        ("xxxxx", 26),
        ("short", 32),
        ("y" * 10, 42),
        ("yy", 45),
    ]


def join(*lines: str) -> list[str]:
    joiner = Joiner()
    done = [joiner.add(line, number) for number, line in enumerate(lines, 1)]
    found = [event for event in (*done, joiner.flush()) if event is not None]
    assert [event.end for event in found] == sorted({event.end for event in found})
    assert not found or found[-1].end == len(lines)
    return [event.text for event in found]


PYTHON = """Traceback (most recent call last):
  File "x.py", line 1, in <module>
    main()
shop.errors.SoldOutError: no tea

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File "x.py", line 3, in <module>
    other()
ValueError: 1"""
JAVA = """java.lang.IllegalStateException: no
\tat shop.Orders.place(Orders.java:7)
\t... 3 more
Caused by: java.io.IOException: gone
\tat shop.Disk.read(Disk.java:1)"""


@pytest.mark.parametrize("trace", [PYTHON, f"ERROR it broke\n{PYTHON}", JAVA, f"ERROR {JAVA}"])
def test_a_trace_is_one_event(trace: str) -> None:
    assert join("before", *trace.split("\n"), "after", "more") == (
        ["before", *([trace] if not trace.startswith("Trace") else []), "after", "more"]
        if not trace.startswith("Trace")
        else [f"before\n{trace}", "after", "more"]
    )


def test_lines_of_their_own() -> None:
    assert join("a", "b", "Error: c", "") == ["a", "b", "Error: c", ""]


def test_an_event_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "MAX_LINES", 3)
    assert join("a", " 1", " 2", " 3", " 4") == ["a\n 1\n 2", " 3\n 4"]


@given(st.lists(st.text(st.characters(exclude_characters="\n"), max_size=8) | st.sampled_from(PYTHON.split("\n"))))
def test_no_line_is_lost(lines: list[str]) -> None:
    joined = "\n".join(join(*lines))
    assert joined.replace("\n", "") == "".join(lines)
