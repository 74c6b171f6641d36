"""The shipper on a real sink: what it took is there once, whatever was away meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from mesh.api.tracesink.v1 import PushRequest
from mesh.telemetry.kinds import SPANS
from mesh.telemetry.record import Record, to_batch
from mesh.telemetry.shipper import Shipper, ShipperOptions
from mesh.telemetry.spans import SpanRecord, to_span_batch
from mesh.telemetry.spool import Spool, left_behind
from tests.e2e.registry_harness import AWAITED, PATIENCE, control_process
from tests.e2e.test_collect import arrived, bodies


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.02)


def put(shipper: Shipper, *texts: str) -> bool:
    return shipper.put(to_batch([Record(text) for text in texts], 0))


async def test_records_arrive_in_order_over_a_kill_of_the_sink(tmp_path: Path) -> None:
    async with control_process(tmp_path / "data", AWAITED) as control:
        async with Shipper(control.address, "test") as shipper:
            for number in range(60):
                assert put(shipper, f"{number}.0", f"{number}.1")
                if number == 20:
                    await arrived(control, 1)
                    await control.kill()
                if number == 40:
                    await control.start()
            await until(lambda: not shipper.waiting)
            assert (shipper.stats.shipped, shipper.stats.dropped) == (120, 0)
        assert await bodies(control) == [f"{number}.{half}" for number in range(60) for half in (0, 1)]


async def test_what_is_too_much_for_memory_waits_on_disk_and_for_another_process(tmp_path: Path) -> None:
    root = tmp_path / "spool"
    options = ShipperOptions(memory_bytes=1 << 16, spool=root, spool_bytes=1 << 20, close_seconds=0)
    texts = [f"{number} " + "x" * 10_000 for number in range(40)]
    async with control_process(tmp_path / "data", AWAITED) as control:
        await control.kill()
        async with Shipper(control.address, "test", options) as shipper:
            for text in texts:
                async with asyncio.timeout(PATIENCE):
                    while not put(shipper, text):  # until the disk has taken some
                        await asyncio.sleep(0.01)
        kept = len(list(root.glob("*/*.batch")))
        assert kept == len(texts)
        (folder,) = root.iterdir()
        # One that is damaged is left out, and does not hold up the others.
        (folder / f"{5:020d}.batch").write_bytes(b"cut off")
        await control.start()
        async with Shipper(control.address, "test", options) as shipper:
            put(shipper, "new")
            await until(lambda: not shipper.waiting)
        assert await bodies(control) == [*(text for number, text in enumerate(texts) if number != 4), "new"]
        assert not list(root.iterdir())


async def test_no_kind_of_records_sends_what_another_one_left_behind(tmp_path: Path) -> None:
    options = ShipperOptions(spool=tmp_path / "spool", close_seconds=0)
    span = SpanRecord("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7", "work", 1, 2)
    async with control_process(tmp_path / "data", AWAITED) as control:
        async with (
            Shipper("127.0.0.1:1", "test", options) as logs,
            Shipper("127.0.0.1:1", "test", options, SPANS) as spans,
        ):
            assert put(logs, "one", "two")
            assert spans.put(to_span_batch([span] * 3))
            assert (logs.kind.name, spans.kind.name) == ("logs", "spans")
        (kept,) = (tmp_path / "spool" / "spans").glob("*/*.batch")
        async with Shipper(control.address, "test", options) as shipper:
            await until(lambda: shipper.stats.shipped == 2)
            put(shipper, "three")
            await until(lambda: not shipper.waiting)
        assert await bodies(control) == ["one", "two", "three"]
        assert kept.is_file()
    (spool,) = left_behind(SPANS.spool(tmp_path / "spool"))
    batch = PushRequest.FromString(spool.read() or b"").batch
    assert (SPANS.count(batch), list(batch.start_ns)) == (3, [1, 1, 1])
    spool.close()


async def test_what_finds_no_room_is_dropped_and_counted(tmp_path: Path) -> None:
    options = ShipperOptions(memory_bytes=1 << 16, spool=tmp_path / "spool", spool_bytes=1 << 16, close_seconds=0)
    async with Shipper("127.0.0.1:1", "test", options) as shipper:
        taken = 0
        for _ in range(100):
            taken += put(shipper, "x" * 10_000)
            await asyncio.sleep(0)
        assert shipper.stats.dropped == 100 - taken > 0
    assert shipper.stats.dropped + len(list((tmp_path / "spool").glob("*/*.batch"))) == 100


def test_a_spool_is_one_processes_at_a_time(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "p")
    spool.put(7, b"seven")
    spool.put(8, b"eight")
    assert not list(left_behind(tmp_path))
    assert (spool.first, spool.read()) == (7, b"seven")
    spool.drop()
    spool.close()
    (again,) = left_behind(tmp_path)
    assert (again.first, again.read(), again.size) == (8, b"eight", 9)
    again.drop()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("wrong", [{"memory_bytes": 1}, {"spool_bytes": -1}, {"close_seconds": -1.0}])
def test_bounds_make_sense(wrong: dict[str, float]) -> None:
    with pytest.raises(Exception, match="shipper"):
        ShipperOptions(**wrong)  # type: ignore[arg-type]
