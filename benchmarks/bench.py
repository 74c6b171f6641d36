"""What a case works with: peers that run, and what they used while something was done to them."""

from __future__ import annotations

import contextlib
import itertools
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import processes
from benchmarks.load.client import Done
from benchmarks.peers.peer import Peer, Running, Site

# What a peer still does for the calls after the last one ended, such as writing its access log, is its cost as well.
SETTLE_SECONDS = 0.4


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
    """The peers of one case, each started when it is first needed and stopped after the case."""

    def __init__(self, folder: Path, endpoints: Sequence[int], *, quick: bool) -> None:
        self.folder = folder
        self.endpoints = tuple(endpoints)
        self.quick = quick
        # Of one measurement, of which a round has two for the main peers; and of the load before the first.
        self.seconds = 0.5 if quick else 1.5
        self.warm_up_seconds = 0.3 if quick else 1.0
        # Grows with each round, and seeds the load: all peers of a round get the same.
        self.round = 0
        self._kept: dict[tuple[str, int, bool], Running] = {}
        self._warm: set[Running] = set()
        self._numbers = itertools.count()

    def running(self, peer: Peer, workers: int = 1, *, tls: bool = False) -> Running:
        """Return the peer, which goes on running to the end of the case; raises FailedToStartError."""
        key = (peer.name, workers, tls)
        running = self._kept.get(key)
        if running is None or running.started.process.poll() is not None:
            running = self._kept[key] = self._start(peer, workers, tls=tls)
        return running

    @contextlib.contextmanager
    def fresh(self, peer: Peer) -> Iterator[Running]:
        """Run another one of the peer while the context is open; raises FailedToStartError."""
        running = self._start(peer, 1, tls=False)
        with processes.running(running.started):
            yield running

    def warm_and_measure(self, running: Running, load: Callable[[float], Done]) -> Measured:
        """Measure a load, which is told its seconds; what has not run in this case runs for a while before."""
        if running not in self._warm:
            load(self.warm_up_seconds)
            self._warm.add(running)
            time.sleep(SETTLE_SECONDS)
        return self.measure(running, lambda: load(self.seconds))

    def measure(self, running: Running, load: Callable[[], Done]) -> Measured:
        """Measure what the peer uses for a load; raises LoadError."""
        before = running.started.cpu_seconds()
        done = load()
        time.sleep(SETTLE_SECONDS)
        return Measured(done, running.started.cpu_seconds() - before)

    def end_case(self) -> None:
        """Stop what runs, and remove its logs."""
        for running in self._kept.values():
            running.started.stop()
            shutil.rmtree(running.folder, ignore_errors=True)
        self._kept.clear()
        self._warm.clear()

    def _start(self, peer: Peer, workers: int, *, tls: bool) -> Running:
        folder = self.folder / f"{peer.name}-{next(self._numbers)}"
        folder.mkdir()
        return peer.start(Site(folder, self.endpoints, workers, tls=tls))
