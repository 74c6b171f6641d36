"""What this process and its host use, for a registry of prometheus-client: read when it is asked for, not before.

Names are those that Prometheus' users know. Of the process, as its client libraries have them:
`process_cpu_seconds_total`, `process_resident_memory_bytes`, `process_virtual_memory_bytes`,
`process_start_time_seconds`, `process_num_threads`, `process_open_fds`, `process_max_fds`,
`process_event_loop_lag_seconds`, `python_gc_*`. Of the host, as the node exporter has them, added up over processors
and disks: `node_cpu_seconds_total{mode}`, `node_load1`, `node_memory_MemAvailable_bytes`,
`node_filesystem_avail_bytes{mountpoint}` and their kin.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import os
import platform
import resource
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
from prometheus_client import CollectorRegistry, PlatformCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, SummaryMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from mesh.telemetry.lag import LoopLag

# What the node exporter calls modes, of what psutil knows; a guest's time is in the user's already.
_MODES = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")
_GENERATIONS = 3


@contextlib.asynccontextmanager
async def measured(
    registry: CollectorRegistry, *, host: bool = True, disks: Sequence[str | Path] = ("/",)
) -> AsyncIterator[LoopLag]:
    """Register all of this process' resource use, and measure its event loop while the context is open.

    `host` says whether the host's is told of as well, and `disks` are folders on the file systems that matter.
    """
    lag = LoopLag()
    registry.register(lag)
    register(registry, host=host, disks=disks)
    measuring = asyncio.create_task(lag.run())
    try:
        yield lag
    finally:
        measuring.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await measuring


def register(registry: CollectorRegistry, *, host: bool = True, disks: Sequence[str | Path] = ("/",)) -> None:
    """Register what needs no event loop."""
    registry.register(ProcessResources())
    PlatformCollector(registry=registry)
    if host:
        registry.register(HostResources(disks))


class ProcessResources(Collector):
    """Of this process."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._pauses = _pauses()

    def collect(self) -> Iterator[Metric]:
        """Return it as it is now; what the system does not tell is left out."""
        process = self._process
        # One reading of its files under /proc for all.
        with process.oneshot(), contextlib.suppress(psutil.Error, OSError):
            times = process.cpu_times()
            yield CounterMetricFamily("process_cpu_seconds", "CPU time, user and system.", times.user + times.system)
            memory = process.memory_info()
            yield GaugeMetricFamily("process_resident_memory_bytes", "Memory that is in RAM.", memory.rss)
            yield GaugeMetricFamily("process_virtual_memory_bytes", "Address space.", memory.vms)
            yield GaugeMetricFamily(
                "process_start_time_seconds", "When it started, seconds since 1970.", process.create_time()
            )
            yield GaugeMetricFamily("process_num_threads", "Threads.", process.num_threads())
        with contextlib.suppress(psutil.Error, OSError):
            yield GaugeMetricFamily("process_open_fds", "File descriptors that are open.", process.num_fds())
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        if most != resource.RLIM_INFINITY:
            yield GaugeMetricFamily("process_max_fds", "File descriptors that may be open.", most)
        yield from self._garbage()

    def _garbage(self) -> Iterator[Metric]:
        labels = ("generation",)
        collections = CounterMetricFamily("python_gc_collections", "Runs of the garbage collector.", labels=labels)
        collected = CounterMetricFamily("python_gc_objects_collected", "Objects that it freed.", labels=labels)
        stuck = CounterMetricFamily("python_gc_objects_uncollectable", "Objects that it could not.", labels=labels)
        pauses = SummaryMetricFamily(
            "python_gc_pause_seconds", "How long it stopped everything, since this was first asked for.", labels=labels
        )
        for generation, stats in enumerate(gc.get_stats()):
            which = (str(generation),)
            collections.add_metric(which, stats["collections"])
            collected.add_metric(which, stats["collected"])
            stuck.add_metric(which, stats["uncollectable"])
        for generation in range(_GENERATIONS):
            pauses.add_metric((str(generation),), self._pauses.counts[generation], self._pauses.seconds[generation])
        yield from (collections, collected, stuck, pauses)


class HostResources(Collector):
    """Of the machine, or of what a container shows of it."""

    def __init__(self, disks: Sequence[str | Path] = ("/",)) -> None:
        """Look at the file systems that `disks` lie on."""
        self._mounts = sorted({str(_mount(Path(disk))) for disk in disks})
        self._name = platform.node()

    def collect(self) -> Iterator[Metric]:
        """Return it as it is now; what the system does not tell is left out."""
        # Several instances on one host are told apart from several hosts by this.
        info = GaugeMetricFamily("node_uname_info", "The host's name.", labels=("nodename",))
        info.add_metric((self._name,), 1)
        yield info
        for part in (self._processors, self._memory, self._file_systems, self._disks):
            with contextlib.suppress(psutil.Error, OSError, NotImplementedError):
                yield from part()

    def _processors(self) -> Iterator[Metric]:
        times = psutil.cpu_times()
        spent = CounterMetricFamily("node_cpu_seconds", "CPU time of all processors.", labels=("mode",))
        for mode in _MODES:
            if (seconds := getattr(times, mode, None)) is not None:
                spent.add_metric((mode,), seconds)
        yield spent
        yield GaugeMetricFamily("node_cpus", "Processors.", psutil.cpu_count() or 1)
        for minutes, load in zip((1, 5, 15), os.getloadavg(), strict=True):
            yield GaugeMetricFamily(f"node_load{minutes}", f"Load average, {minutes} min.", load)
        yield GaugeMetricFamily("node_boot_time_seconds", "When it started, seconds since 1970.", psutil.boot_time())

    def _memory(self) -> Iterator[Metric]:
        memory = psutil.virtual_memory()
        yield GaugeMetricFamily("node_memory_MemTotal_bytes", "RAM.", memory.total)
        yield GaugeMetricFamily("node_memory_MemAvailable_bytes", "RAM that can be had.", memory.available)

    def _file_systems(self) -> Iterator[Metric]:
        size = GaugeMetricFamily("node_filesystem_size_bytes", "Size of a file system.", labels=("mountpoint",))
        room = GaugeMetricFamily("node_filesystem_avail_bytes", "Room for users on it.", labels=("mountpoint",))
        for mount in self._mounts:
            used = psutil.disk_usage(mount)
            size.add_metric((mount,), used.total)
            room.add_metric((mount,), used.free)
        yield from (size, room)

    def _disks(self) -> Iterator[Metric]:
        counted = psutil.disk_io_counters(nowrap=False)
        if counted is not None:  # a host without disks
            yield CounterMetricFamily("node_disk_read_bytes", "Read from all disks.", counted.read_bytes)
            yield CounterMetricFamily("node_disk_written_bytes", "Written to all disks.", counted.write_bytes)


class _Pauses:
    """How often, and how long, the garbage collector stopped this process, by generation."""

    def __init__(self) -> None:
        self.counts = [0] * _GENERATIONS
        self.seconds = [0.0] * _GENERATIONS
        self._began = 0.0

    def heard(self, phase: str, info: dict[str, Any]) -> None:
        """Take what `gc.callbacks` are told; one collection runs at a time, whatever the thread."""
        if phase == "start":
            self._began = time.perf_counter()
        elif self._began:
            self.seconds[info["generation"]] += time.perf_counter() - self._began
            self.counts[info["generation"]] += 1


@functools.cache
def _pauses() -> _Pauses:
    """Return the process' one; it listens from now on."""
    pauses = _Pauses()
    gc.callbacks.append(pauses.heard)
    return pauses


def _mount(path: Path) -> Path:
    """Return where the file system of `path` is mounted."""
    path = path.absolute()
    while not path.is_mount() and path != path.parent:
        path = path.parent
    return path
