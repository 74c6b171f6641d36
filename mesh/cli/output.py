"""How commands print: results on standard output, plain when it is no terminal; progress and news on standard error."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol


def print_line(text: str = "") -> None:
    """Print one line of a result; ends the command when nobody reads it any more, as `head` does when it has enough."""
    try:
        print(text, flush=True)  # noqa: T201 - the command's voice
    except BrokenPipeError:
        # What is still in the buffer must not be tried again at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None


def print_json(value: Any, *, indent: int | None = 2) -> None:
    """Print a result for programs."""
    print_line(json.dumps(value, indent=indent))


def say(text: str) -> None:
    """Print one line of news, such as a restart, which is no result."""
    print(f"mesh: {text}", file=sys.stderr, flush=True)  # noqa: T201


class Progress(Protocol):
    """What goes on right now, for a person who waits."""

    def update(self, status: str) -> None:
        """Show `status` in place of the one before."""
        ...

    def clear(self) -> None:
        """Show nothing until the next update."""
        ...


class _Silent:
    def update(self, status: str) -> None:
        pass

    def clear(self) -> None:
        pass


class _Spinner:
    def __init__(self) -> None:
        from rich.console import Console

        self._shown = Console(stderr=True).status("")

    def update(self, status: str) -> None:
        self._shown.update(status)
        self._shown.start()

    def clear(self) -> None:
        self._shown.stop()


@contextmanager
def progress() -> Iterator[Progress]:
    """Show what goes on while the block runs, on a terminal only."""
    shown: Progress = _Spinner() if sys.stderr.isatty() else _Silent()
    try:
        yield shown
    finally:
        shown.clear()


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, gap: str = "  ") -> list[str]:
    """Return the lines of a table whose columns are as wide as they need: it can be read, and cut by `awk`."""
    lines = [tuple(head), *map(tuple, rows)]
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    return [gap.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
