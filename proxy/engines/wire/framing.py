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
        end, position = len(data), self._left
        if position:
            # The rest of the message under way.
            if position > end:
                self._left = position - end
                return 0
            self._left = 0
            self.messages += 1
        limit, begun, messages, total = self._limit, self._prefix, 0, 0
        while position < end:
            head = data[position : position + PREFIX]
            position += PREFIX
            if begun:
                position -= len(begun)
                head, begun = begun + head[: PREFIX - len(begun)], b""
            if len(head) < PREFIX:
                begun, position = head, end
                break
            size = int.from_bytes(head[1:], "big")
            if size > limit:
                self.messages += messages
                self.bytes += total
                return size
            total += size
            position += size
            messages += 1
        if position > end:
            self._left = position - end
            messages -= 1
        self._prefix = begun
        self.messages += messages
        self.bytes += total
        return 0
