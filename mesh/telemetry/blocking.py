"""Finds what blocks an event loop: as long as a handler holds it, no other call gets on.

A timer in the loop moves a time forward; one daemon thread looks whether it is late, and if it is, twice, what the
loop's thread is doing. While nothing blocks, that is 35 wake-ups a second, and nothing a call.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
import threading
import weakref
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from types import CodeType
from typing import Self

from prometheus_client.core import HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from mesh.clock import SystemClock
from mesh.context import entered
from mesh.options import require
from mesh.telemetry.stacks import Culprit, Sample, base, judge, sample

METRIC = "mesh_event_loop_blocked_seconds"
BUCKETS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
# So many functions are told apart in the metric; the others are one together.
MAX_FUNCTIONS = 32
OTHERS = "others"
# Where no single function was at it both times, but the loop did not get round.
OVERLOAD = "overload"

# The loop's timer, in limits; and after so many times it is seen anew what callbacks run under.
_TICKS = 0.4
_LOOK_EVERY = 25

_watched: weakref.WeakSet[asyncio.AbstractEventLoop] = weakref.WeakSet()

_log = logging.getLogger(__name__)
_now = SystemClock.now


@dataclass(frozen=True, slots=True)
class BlockingOptions:
    """When a block is one, and how much is said of it."""

    # No callback that holds the loop for less is reported, and each that holds it for half as long again.
    limit_seconds: float = 0.1
    # A block that goes on is reported after so long, before it ends.
    still_seconds: float = 5.0
    # One line for the same function in so many seconds, and so many lines in all in that time.
    quiet_seconds: float = 60.0
    lines: int = 10

    def __post_init__(self) -> None:
        require(self.limit_seconds >= 0.01, "the limit for blocking the event loop is at least 10 ms")
        require(self.still_seconds > self.limit_seconds, "a block cannot be told to go on before it is one")
        require(self.quiet_seconds >= 0 and self.lines >= 1, "at least one line about blocking must be allowed")


class BlockingWatch(Collector):
    """Watches the running loop. Use as `with BlockingWatch():`, in the loop; register it with prometheus-client.

    Of several on one loop the first one watches.
    """

    def __init__(self, options: BlockingOptions | None = None) -> None:
        self._options = options or BlockingOptions()
        self._tick = _TICKS * self._options.limit_seconds
        # Held while it watches: to wait for a lock costs half of what waiting for an Event does.
        self._watching = threading.Lock()
        self._beats = 0
        self._timer: asyncio.TimerHandle | None = None
        self._under: tuple[CodeType, ...] = ()
        # When the loop's timer is due; what holds it up was found for that time, and whether that was said already.
        self._due = 0.0
        self._found: tuple[float, Culprit | None] | None = None
        self._said_of = 0.0
        # By function: count a bucket, and the sum.
        self._counts: dict[str, tuple[list[int], list[float]]] = {}
        # By function, when a line was last written and how many were left out since.
        self._written: dict[str, tuple[float, int]] = {}

    def __enter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        if self._loop in _watched:
            return self
        _watched.add(self._loop)
        self._watching.acquire()
        self._thread_id = threading.get_ident()
        self._due = _now() + self._tick
        self._loop.call_soon(self._beat)
        self._thread = threading.Thread(target=self._watch, name="mesh-blocking-watch", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if not self._watching.locked():
            return
        _watched.discard(self._loop)
        self._watching.release()
        if self._timer is not None:
            self._timer.cancel()
        self._thread.join()

    def collect(self) -> Iterator[Metric]:
        """Return it as it is now."""
        text = "How long functions held the event loop up, each time that was over the limit."
        family = HistogramMetricFamily(METRIC, text, labels=("function",))
        for function, (counts, total) in list(self._counts.items()):
            seen, buckets = 0, []
            for bound, count in zip((*map(str, BUCKETS), "+Inf"), counts, strict=True):
                seen += count
                buckets.append((bound, seen))
            family.add_metric((function,), buckets, total[0])
        yield family

    def _beat(self) -> None:
        """In the loop: it is alive."""
        if not self._watching.locked():
            return
        now = _now()
        if self._beats % _LOOK_EVERY == 0:
            self._under = base(sys._getframe().f_back)  # noqa: SLF001 - the way to see its own callers
        self._beats += 1
        found, due = self._found, self._due
        self._due = now + self._tick
        self._timer = self._loop.call_later(self._tick, self._beat)
        if found is not None and found[0] == due:
            self._found = None
            self._count(found[1], now - due)
            if self._said_of != due:
                self._say(found[1], now - due, still=False)

    def _watch(self) -> None:
        """In the thread: look when the loop's timer is half a limit late, and again when it is a whole one."""
        limit = self._options.limit_seconds
        first: tuple[float, Sample] | None = None
        wait = self._tick
        while True:
            asked = _now()
            if self._watching.acquire(timeout=wait):
                self._watching.release()
                return
            now, due = _now(), self._due
            late = now - due
            if now - asked > wait + limit / 2:
                # The whole process stood still, or the machine has no time for it: nobody in it is to blame.
                first, wait = None, limit / 2
            elif late < limit / 2:
                wait = limit / 2 - late
            elif first is None or first[0] != due:
                seen = self._sample()
                # Where nothing runs the timer is late for want of CPU.
                first, wait = (due, seen) if seen.steps else None, max(limit - late, limit / 4)
            elif late < limit:
                wait = limit - late
            else:
                wait = self._notice(due, late, first[1])

    def _notice(self, due: float, late: float, first: Sample) -> float:
        """Note who is at it; returns the seconds until it is worth another look."""
        still = self._options.still_seconds
        if self._found is None or self._found[0] != due:
            second = self._sample()
            if not second.steps:
                return self._options.limit_seconds
            self._found = (due, judge(first, second))
        if late < still:
            return min(still - late, self._options.limit_seconds)
        if self._said_of != due:
            self._said_of = due
            self._say(self._found[1], late, still=True)
        return self._options.limit_seconds

    def _sample(self) -> Sample:
        frame = sys._current_frames().get(self._thread_id)  # noqa: SLF001 - the way there is
        return sample(frame, self._under)

    def _count(self, culprit: Culprit | None, seconds: float) -> None:
        function = culprit.function if culprit is not None else OVERLOAD
        if function not in self._counts and len(self._counts) >= MAX_FUNCTIONS:
            function = OTHERS
        counts, total = self._counts.setdefault(function, ([0] * (len(BUCKETS) + 1), [0.0]))
        counts[bisect_left(BUCKETS, seconds)] += 1
        total[0] += seconds

    def _say(self, culprit: Culprit | None, seconds: float, *, still: bool) -> None:
        """Write one line, unless enough was said of late."""
        place, now = f"{culprit.file}:{culprit.function}" if culprit is not None else OVERLOAD, _now()
        quiet = self._options.quiet_seconds
        before, left_out = self._written.get(place, (now - quiet, 0))
        lately = sum(now - when < quiet for when, _ in self._written.values())
        if now - before < quiet or lately >= self._options.lines:
            if place in self._written:
                self._written[place] = before, left_out + 1
            return
        self._written = {known: at for known, at in self._written.items() if now - at[0] < quiet} | {place: (now, 0)}
        more = f"; {left_out} times more since it was last told" if left_out else ""
        took = f"has been blocked for {seconds:.1f} s, and still is," if still else f"was blocked for {seconds:.2f} s"
        if culprit is None:
            _log.warning("the event loop %s by many callbacks together: it has more to do than it can%s", took, more)
            return
        work = culprit.work
        serving = f", serving {work.method}" if work is not None and work.method else ""
        inside = f" in {culprit.inside}" if culprit.inside else ""
        attributes = {
            "code.function.name": culprit.function,
            "code.file.path": culprit.file,
            "code.line.number": culprit.line,
            "mesh.blocked_seconds": round(seconds, 3),
            **({"rpc.method": work.method} if work is not None and work.method else {}),
        }
        context = work.context if work is not None else None
        with entered(context) if context is not None else contextlib.nullcontext():
            _log.warning(
                "the event loop %s by %s%s%s: no other call got on meanwhile; await it, or use asyncio.to_thread%s",
                *(took, culprit.place, inside, serving, more),
                extra=attributes,
            )
