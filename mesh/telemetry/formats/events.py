"""Lines joined to events: a stack trace belongs to the line that it follows. Decides, and does no I/O."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

# An event that would be longer ends, and the next one begins.
MAX_LINES = 1_000
MAX_BYTES = 200 * 1024

_TRACEBACK = "Traceback (most recent call last):"
# Lines at the margin that go on with a trace.
_WITHIN = re.compile(
    r"Caused by: |Suppressed: |\.\.\. \d+ more|During handling of the above exception|"
    r"The above exception was the direct cause|Traceback \(most recent call last\):|goroutine \d+ \["
)
# What a Python trace ends with, such as "ValueError: 1" or "shop.errors.SoldOut".
_LAST = re.compile(r"[A-Za-z_][\w.]*(: .*)?$", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Event:
    """Lines that belong together, without the last line break."""

    text: str
    # Where in the source the next event begins.
    end: int


@dataclass(slots=True)
class Joiner:
    """Takes lines, with where each ends, and gives events when they are complete."""

    _lines: list[str] = field(default_factory=list)
    _size: int = 0
    _end: int = 0
    # Within a trace of Python: after its head, until the line that names the exception.
    _in_trace: bool = False

    def add(self, line: str, end: int) -> Event | None:
        """Take a line; returns the event before it when that is over."""
        done = None
        if self._lines and not self._goes_on(line):
            done = self.flush()
        if not self._lines:
            self._in_trace = line.startswith(_TRACEBACK)
        self._lines.append(line)
        self._size += len(line) + 1
        self._end = end
        return done

    def flush(self) -> Event | None:
        """Return what there is as an event, when no more may come."""
        if not self._lines:
            return None
        event = Event("\n".join(self._lines).rstrip("\n"), self._end)
        self._lines, self._size, self._in_trace = [], 0, False
        return event

    @property
    def waiting(self) -> bool:
        """Whether an event is not complete."""
        return bool(self._lines)

    def _goes_on(self, line: str) -> bool:
        if len(self._lines) >= MAX_LINES or self._size + len(line) > MAX_BYTES:
            return False
        if line.startswith(_TRACEBACK):
            self._in_trace = True
            return True
        if line[:1] in (" ", "\t") or _WITHIN.match(line):
            return True
        if not self._in_trace:
            return False
        if not line.strip():
            return True
        # The exception's name, after the last indented line.
        return self._lines[-1][:1] in (" ", "\t") and _LAST.match(line) is not None
