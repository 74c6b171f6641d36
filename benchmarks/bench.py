"""What a case works with: peers that run, and what they used while something was done to them."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import processes
from benchmarks.load.client import Done
from benchmarks.peers.peer import Peer, Running, Site

# What a peer still does for the calls after the last one ended, such as writing its access log, is its cost as well.
_SETTLE_SECONDS = 0.4


@dataclass(frozen=True, slots=True)
class Measured:
    """What came of a load, and the processor time that the peer used for it."""

    done: Done
    cpu_seconds: float

    @property
    def cpu_us_per_call(self) -> float:
        return self.cpu_seconds * 1e6 / self.done.calls

    @property
    def cpu_us_per_megabyte(self) -> float:
        return self.cpu_seconds * 1e6 / self.done.megabytes


class Bench:
    """The peers of one run, each started when it is first needed."""

    def __init__(self, folder: Path, endpoints: Sequence[int], *, quick: bool) -> None:
        self.folder = folder
        self.endpoints = tuple(endpoints)
        self.quick = quick
        # Of one measurement, and of the load before it.
        self.seconds = 1.5 if quick else 3.0
        self.warm_up_seconds = 0.5 if quick else 1.0
        # Grows with each round, and seeds the load: all peers of a round get the same.
        self.round = 0
        # Of the machine's processors, what programs that are not ours used during each measurement; see take_foreign.
        self._foreign: list[float] = []
        self._kept: dict[tuple[str, int], Running] = {}
        self._numbers = itertools.count()

    def running(self, peer: Peer, workers: int = 1) -> Running:
        """Return the peer, which goes on running for the cases to come; raises FailedToStartError."""
        key = (peer.name, workers)
        running = self._kept.get(key)
        if running is None or running.started.process.poll() is not None:
            running = self._kept[key] = self._start(peer, workers)
        return running

    @contextlib.contextmanager
    def fresh(self, peer: Peer) -> Iterator[Running]:
        """Run another one of the peer while the context is open; raises FailedToStartError."""
        running = self._start(peer, 1)
        with processes.running(running.started):
            yield running

    def warm_and_measure(self, running: Running, load: Callable[[float], Done]) -> Measured:
        """Make a load, which is told its seconds, for a while that does not count, then measure it."""
        load(self.warm_up_seconds)
        return self.measure(running, lambda: load(self.seconds))

    def measure(self, running: Running, load: Callable[[], Done]) -> Measured:
        """Measure what the peer uses for a load; raises LoadError."""
        time.sleep(_SETTLE_SECONDS)
        others = processes.Others()
        before = running.started.cpu_seconds()
        done = load()
        time.sleep(_SETTLE_SECONDS)
        used = running.started.cpu_seconds() - before
        self._foreign.append(others.share())
        return Measured(done, used)

    def take_foreign(self) -> list[float]:
        """Return what part of the machine others used during each measurement since the last time."""
        taken, self._foreign = self._foreign, []
        return taken

    def stop(self) -> None:
        """Stop what goes on running."""
        for running in self._kept.values():
            running.started.stop()
        self._kept.clear()

    def _start(self, peer: Peer, workers: int) -> Running:
        folder = self.folder / f"{peer.name}-{next(self._numbers)}"
        folder.mkdir()
        return peer.start(Site(folder, self.endpoints, workers))
