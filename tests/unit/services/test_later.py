from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_status import rpc_status

from mesh.api.registry.v1 import ListRequest, RegistryStub
from mesh.errors import StartError, UsageError
from services.control import OFF, ControlOptions
from services.host import Host, Hosted
from services.later import Later
from services.metrics.alerts.receivers import Receiver
from services.names import TELEMETRY
from services.registry.domain import Registry
from services.registry.servicer import SERVICE, add_registry
from services.storage.kv.embedded import EmbeddedStore
from services.telemetry import telemetry

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture
async def registry(tmp_path: Path) -> AsyncIterator[Registry]:
    async with EmbeddedStore.open(tmp_path / "kv.db") as store, Registry(store) as opened:
        yield opened


@pytest.fixture
async def host() -> AsyncIterator[Host]:
    made = Host("127.0.0.1:0", [], option="--listen")
    yield made
    await made.stop(0)


async def listed(channel: grpc.aio.Channel) -> list[str]:
    call = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo()
    await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
    reply = await call.read()
    await call.done_writing()
    return [service.name for service in reply.list_services_response.service]


async def refusal(call: Any) -> tuple[grpc.StatusCode, str | None, int]:
    """Return code, sentence, and the seconds until another try."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    status = rpc_status.from_call(caught.value)  # type: ignore[arg-type] # it has what a call has
    assert status is not None
    retry = error_details_pb2.RetryInfo()
    assert status.details[0].Unpack(retry)
    return caught.value.code(), caught.value.details(), retry.retry_delay.seconds


async def test_what_comes_later_says_so_until_it_is_there(host: Host, registry: Registry) -> None:
    address = await host.start()
    await host.expect([SERVICE], "not yet")
    async with grpc.aio.insecure_channel(address) as channel:
        health, stub = health_pb2_grpc.HealthStub(channel), RegistryStub(channel)
        watch: Any = health.Watch(health_pb2.HealthCheckRequest(service=SERVICE))
        assert (await watch.read()).status == NOT_SERVING
        assert SERVICE not in await listed(channel)
        for call in (stub.List(ListRequest()), channel.stream_stream(f"/{SERVICE}/KeepAlive")().read()):
            assert await refusal(call) == (grpc.StatusCode.UNAVAILABLE, "not yet", 1)
        await host.add([Hosted(SERVICE, lambda server: add_registry(registry, server))])
        assert (await watch.read()).status == SERVING
        assert SERVICE in await listed(channel)
        assert (await stub.List(ListRequest())).header.cluster_id == registry.header.cluster_id


async def test_what_cannot_be_opened_is_tried_again(
    host: Host, registry: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    tries, mended = 0, False

    @contextlib.asynccontextmanager
    async def broken() -> AsyncIterator[Sequence[Hosted]]:
        if not mended:
            raise StartError("the disk\nis gone")
        yield [Hosted(SERVICE, lambda server: add_registry(registry, server))]

    async def opening() -> contextlib.AbstractAsyncContextManager[Sequence[Hosted]]:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise OSError("surprise")
        return broken()

    address = await host.start()
    async with Later(host, [SERVICE], "the store", opening) as later, grpc.aio.insecure_channel(address) as channel:
        stub = RegistryStub(channel)
        said = (await refusal(stub.List(ListRequest())))[1]
        assert said == "the store is being opened: try again in a moment"
        later.begin()
        while said != "the disk is gone":
            said = (await refusal(stub.List(ListRequest())))[1]
            await asyncio.sleep(0.01)
        mended = True
        health: Any = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=SERVICE))
        while (await health.read()).status != SERVING:
            pass
    lines = [record.message for record in caplog.records]
    assert lines[:2] == ["surprise; trying again", "the disk is gone; trying again"]
    assert [record.exc_info is not None for record in caplog.records[:2]] == [True, False]


async def test_the_telemetry_services_are_those_that_are_announced(registry: Registry, tmp_path: Path) -> None:
    async with (
        EmbeddedStore.open(tmp_path / "other.db") as store,
        telemetry(f"duckdb://{tmp_path}/telemetry.duckdb", store, registry, me=("mesh-control", "c1")) as services,
    ):
        assert sorted(hosted.name for hosted in services) == sorted(TELEMETRY)


def test_a_control_process_starts_without_what_telemetry_needs() -> None:
    heavy = ("numpy", "pyarrow", "duckdb", "httpx", "jsonschema", "uvicorn", "services.telemetry")
    code = f"import sys, services.control; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("more", [{"http": "127.0.0.1:0"}, {"receivers": (Receiver("http://127.0.0.1/hook"),)}])
def test_without_telemetry_is_nothing_that_stands_on_it(tmp_path: Path, more: Any) -> None:
    with pytest.raises(UsageError, match="it stands on the telemetry store, which is off"):
        ControlOptions(listen="127.0.0.1:0", data_dir=tmp_path, telemetry_store=OFF, **more)
