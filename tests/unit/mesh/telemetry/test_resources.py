"""What a process and its host use, against what the system says by other ways."""

from __future__ import annotations

import gc
import os
import threading
from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest

from mesh.telemetry import resources


def registry(*, host: bool = True, disks: tuple[str | Path, ...] = ("/",)) -> CollectorRegistry:
    made = CollectorRegistry()
    resources.register(made, host=host, disks=disks)
    return made


def value(of: CollectorRegistry, name: str, **labels: str) -> float:
    found = of.get_sample_value(name, labels)
    assert found is not None, name
    return found


def test_the_process_is_told_of() -> None:
    own = registry(host=False)
    before = value(own, "process_open_fds"), value(own, "process_num_threads")
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    reader, writer = os.pipe()
    try:
        assert value(own, "process_open_fds") == before[0] + 2
        assert value(own, "process_num_threads") == before[1] + 1
    finally:
        os.close(reader)
        os.close(writer)
        stop.set()
        thread.join()
    assert value(own, "process_resident_memory_bytes") > 1 << 20
    assert value(own, "process_virtual_memory_bytes") > value(own, "process_resident_memory_bytes")
    spent = os.times()
    assert value(own, "process_cpu_seconds_total") >= spent.user + spent.system - 0.05
    assert not [name for name in generate_latest(own).decode().splitlines() if name.startswith("node_")]


def test_pauses_of_the_garbage_collector_are_measured() -> None:
    own = registry(host=False)
    runs = value(own, "python_gc_pause_seconds_count", generation="2")
    spent = value(own, "python_gc_pause_seconds_sum", generation="2")
    listening = len(gc.callbacks)
    gc.collect()
    assert value(own, "python_gc_pause_seconds_count", generation="2") >= runs + 1
    assert value(own, "python_gc_pause_seconds_sum", generation="2") > spent
    assert value(own, "python_gc_collections_total", generation="2") >= 1
    registry(host=False)
    assert len(gc.callbacks) == listening, "one listener a process"


def test_the_host_is_told_of(tmp_path: Path) -> None:
    own = registry(disks=("/", tmp_path, tmp_path))
    assert value(own, "node_cpus") >= 1
    assert value(own, "node_cpu_seconds_total", mode="user") > 0
    assert 0 < value(own, "node_memory_MemAvailable_bytes") < value(own, "node_memory_MemTotal_bytes")
    assert value(own, "node_uname_info", nodename=os.uname().nodename) == 1
    assert value(own, "node_load5") >= 0
    size = os.statvfs("/")
    assert value(own, "node_filesystem_size_bytes", mountpoint="/") == size.f_blocks * size.f_frsize
    mounts = [one.labels["mountpoint"] for family in own.collect() if family.name == "node_filesystem_avail_bytes"
              for one in family.samples]  # fmt: skip
    assert len(mounts) == len(set(mounts))


async def test_the_event_loop_is_measured_as_long_as_it_is_asked_for() -> None:
    own = CollectorRegistry()
    async with resources.measured(own, host=False) as lag:
        assert value(own, "process_event_loop_lag_seconds") == lag.seconds
