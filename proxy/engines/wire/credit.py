"""Flow control from end to end, as bookkeeping. Pure.

A byte that was received is given back to its sender's window when it has left for its receiver, so that a slow
reader stalls the writer and not the edge's memory. Looking at each byte's departure would be dear. So the first
`EARLY` bytes that can lie in the edge are given back at once; only a stream that may have more than that is looked
after, each time that its receiver's connection was written to.
"""

from __future__ import annotations

KIB = 1024
MIB = 1024 * KIB

# Bytes of one direction of a call that may lie in the edge beyond its sender's window.
EARLY = 32 * KIB
# What the window of a stream grows to once bytes of it have reached its receiver. An endpoint is near: more would only
# lie in the edge, out of the processor's cache (a tenth dearer at 1 MiB). A client may be far.
GROWN_REPLY_WINDOW = 256 * KIB
GROWN_REQUEST_WINDOW = MIB


class Lane:
    """One direction of a call that carries more than `EARLY` bytes."""

    __slots__ = ("grown", "owed", "sent")

    def __init__(self, sent: int) -> None:
        # At most this much lies in the edge.
        self.sent = sent
        # Received and not yet given back.
        self.owed = 0
        # Bytes of the growth budget that it has.
        self.grown = 0

    def receive(self, size: int) -> int:
        """Take in `size` bytes for the receiver; returns how many to give back now."""
        self.sent += size
        if self.sent <= EARLY and not self.owed:
            return size
        self.owed += size
        return 0

    def settle(self, queued: int) -> int:
        """Learn that `queued` bytes still lie in the edge; returns how many to give back now."""
        self.sent = queued
        pay = self.owed - max(0, queued - EARLY)
        if pay <= 0:
            return 0
        self.owed -= pay
        return pay


class Budget:
    """The growth that the calls of one client connection share (`protection.max_buffered_bytes`).

    A client that lets many large replies lie holds no more of the edge than this and the small windows of its streams.
    """

    __slots__ = ("_left",)

    def __init__(self, size: int) -> None:
        self._left = size

    def take(self, size: int) -> bool:
        """Take `size` bytes where they are left."""
        if size > self._left:
            return False
        self._left -= size
        return True

    def give(self, size: int) -> None:
        """Give back what was taken."""
        self._left += size
