"""gRPC's message framing, looked at and never changed: one byte of flags, four of length, then the message. Pure."""

from __future__ import annotations

PREFIX = 5


class Meter:
    """Counts the messages of one direction of a call, however their bytes are cut into pieces."""

    __slots__ = ("_left", "_limit", "_prefix", "bytes", "messages")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        # Of the message under way: bytes still to come, or as much of the prefix as has come.
        self._left = 0
        self._prefix = b""
        # Messages that are complete, and their bytes without framing.
        self.messages = 0
        self.bytes = 0

    def feed(self, data: bytes) -> int:
        """Count a piece; returns 0, or the length of the first message that is over the limit."""
        position, end = 0, len(data)
        while position < end:
            if self._left:
                taken = min(self._left, end - position)
                self._left -= taken
                position += taken
                if not self._left:
                    self.messages += 1
                continue
            prefix = self._prefix + data[position : position + PREFIX - len(self._prefix)]
            position += len(prefix) - len(self._prefix)
            if len(prefix) < PREFIX:
                self._prefix = prefix
                break
            self._prefix = b""
            size = int.from_bytes(prefix[1:], "big")
            if size > self._limit:
                return size
            self._left = size
            self.bytes += size
            if not size:
                self.messages += 1
        return 0
