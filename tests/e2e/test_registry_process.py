"""The control process as a process: how it starts, refuses to start, and stops."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import grpc
import pytest

from mesh.api.registry.v1 import Instance, ListRequest, RegisterRequest, WatchRequest
from mesh.cli.supervisor.ready import serving_all
from services.names import LOG_SINK, TELEMETRY
from tests.e2e.registry_harness import LATER, PATIENCE, ControlProcess, control_process, registry_stub


async def test_it_stops_at_once_silently_with_streams_open(tmp_path: Path) -> None:
    async with control_process(tmp_path) as control, registry_stub(control) as stub:
        watch, idle = stub.Watch(WatchRequest()), stub.KeepAlive()
        assert [instance.service for instance in (await watch.read()).snapshot.instances] == ["mesh-control"]
        code, said = await control.terminate()
        assert (code, said) == (0, "")
        for call in (watch, idle):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await drain(call)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def drain(call: grpc.aio.StreamStreamCall) -> None:
    while await call.read() is not grpc.aio.EOF:
        pass


async def test_a_clean_stop_leaves_no_entry_of_itself(tmp_path: Path) -> None:
    async with control_process(tmp_path) as control:
        await control.terminate()
        await control.start()
        async with registry_stub(control) as stub:
            page = await stub.List(ListRequest())
        (own,) = page.instances
        assert own.create_revision == page.header.revision
        assert [service.name for service in page.services] == ["mesh-control"]


async def test_it_stops_when_its_supervisor_is_gone(tmp_path: Path) -> None:
    control = ControlProcess(tmp_path)
    reader, writer = os.pipe()
    process = await control._spawn("--lifeline-fd", str(reader), pass_fds=(reader,))
    os.close(reader)
    os.close(writer)
    stdout, stderr = await asyncio.wait_for(process.communicate(), PATIENCE)
    assert (process.returncode, stdout, stderr) == (0, b"", b"")


async def test_one_data_directory_is_for_one_process(tmp_path: Path) -> None:
    async with control_process(tmp_path):
        code, said = await ControlProcess(tmp_path).fail_to_start()
    assert code == 1
    expected = (
        f"another control process uses the data directory {tmp_path}: stop it, or choose another one with --data-dir"
    )
    assert said == f"mesh: {expected}\n"


async def test_a_port_in_use_is_one_line(tmp_path: Path) -> None:
    async with control_process(tmp_path / "first") as control:
        second = ControlProcess(tmp_path / "second")
        second.address = control.address
        code, said = await second.fail_to_start()
    assert code == 1
    assert said == (
        f"mesh: cannot listen on {control.address} (Address already in use): free it, "
        "or choose another with --listen HOST:PORT\n"
    )


async def test_a_data_directory_that_cannot_be_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    code, said = await ControlProcess(tmp_path / "file").fail_to_start()
    assert code == 1
    assert (
        said
        == f"mesh: the data directory {tmp_path}/file cannot be written (Not a directory): mend it, or choose another\n"
    )


async def test_wrong_usage_is_one_line_and_exits_with_2(tmp_path: Path) -> None:
    code, said = await ControlProcess(tmp_path).fail_to_start("--listen", "nowhere")
    assert code == 2
    assert said == "mesh: --listen: 'nowhere' is not HOST:PORT, for example 127.0.0.1:7711 or [::1]:7711\n"
    code, said = await ControlProcess(tmp_path).fail_to_start("--grace", "-1")
    assert code == 2
    assert said == "mesh: --grace: '-1' is not a number of seconds from 0 to 3600\n"


@pytest.mark.parametrize(
    ("instance", "sentence"),
    [
        (None, "instance: it is missing"),
        (
            Instance(service="Orders", endpoints=["h:1"]),
            "instance.service: 'Orders' must be 1-63 characters of a-z 0-9 and -, beginning with a letter",
        ),
        (Instance(service="orders"), "instance.endpoints: there are 0, it must be 1 to 16 of them"),
    ],
)
async def test_a_bad_registration_is_told_what_is_wrong(
    tmp_path: Path, instance: Instance | None, sentence: str
) -> None:
    async with control_process(tmp_path) as control, registry_stub(control) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Register(RegisterRequest(instance=instance))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.details() == sentence


async def test_a_telemetry_store_that_cannot_be_opened_keeps_nobody_from_the_registry(tmp_path: Path) -> None:
    place = tmp_path / "telemetry.duckdb"
    place.mkdir()
    async with (
        control_process(tmp_path, LATER) as control,
        registry_stub(control) as stub,
        control.channel() as channel,
    ):
        (own,) = (await stub.List(ListRequest())).instances
        assert set(TELEMETRY) < set(own.grpc_services)
        search: Any = channel.unary_unary(f"/{LOG_SINK}/Search")
        said = ""
        async with asyncio.timeout(PATIENCE):
            while str(place) not in said:
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await search(b"")
                assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
                said = caught.value.details() or ""
                await asyncio.sleep(0.05)
        place.rmdir()
        await serving_all(control.address, TELEMETRY)
        code, said = await control.terminate()
    assert code == 0
    assert all(line.endswith("; trying again") for line in said.splitlines())


async def test_it_stops_at_once_while_telemetry_is_being_opened(tmp_path: Path) -> None:
    async with control_process(tmp_path, LATER) as control:
        assert await control.terminate() == (0, "")


async def test_a_control_process_without_telemetry_does_not_know_it(tmp_path: Path) -> None:
    async with control_process(tmp_path) as control, registry_stub(control) as stub, control.channel() as channel:
        (own,) = (await stub.List(ListRequest())).instances
        assert not set(TELEMETRY) & set(own.grpc_services)
        search: Any = channel.unary_unary(f"/{LOG_SINK}/Search")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await search(b"")
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
