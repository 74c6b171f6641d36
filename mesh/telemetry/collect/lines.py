"""Bytes cut into lines of bounded length. Decides, and does no I/O."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

# A longer line is cut in pieces of this length, each a line of its own.
MAX_LINE = 128 * 1024


@dataclass(slots=True)
class Cutter:
    """Takes bytes as they come and gives lines, each with the place of the source where the next one begins."""

    # Where the rest begins.
    place: int = 0
    _rest: bytes = b""

    def feed(self, data: bytes) -> Iterator[tuple[str, int]]:
        """Yield the lines that are complete; bytes that are not UTF-8 are replaced."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            yield from self._pieces(line, 1)
        while len(self._rest) >= MAX_LINE:
            piece, self._rest = self._rest[:MAX_LINE], self._rest[MAX_LINE:]
            self.place += len(piece)
            yield _text(piece), self.place

    def last(self) -> Iterator[tuple[str, int]]:
        """Yield what is left, when no more comes: a line without its end."""
        rest, self._rest = self._rest, b""
        if rest:
            yield from self._pieces(rest, 0)

    def _pieces(self, line: bytes, ending: int) -> Iterator[tuple[str, int]]:
        while len(line) > MAX_LINE:
            piece, line = line[:MAX_LINE], line[MAX_LINE:]
            self.place += len(piece)
            yield _text(piece), self.place
        self.place += len(line) + ending
        yield _text(line), self.place


def _text(line: bytes) -> str:
    return line.removesuffix(b"\r").decode("utf-8", "replace")
