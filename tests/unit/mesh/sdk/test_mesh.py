"""An instance comes into the mesh, and leaves it, with a real control plane."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

import mesh
from examples.shop.api.v1 import ChargeRequest, PaymentsServicer, PaymentsStub, add_PaymentsServicer_to_server
from mesh.api.registry.v1 import EXPOSURE_PUBLIC, HEALTH_NOT_SERVING, HEALTH_SERVING, HEALTH_STARTING, Instance
from mesh.discovery.errors import RefusedError, ReplacedError
from mesh.errors import StartError, UsageError
from tests.unit.mesh.sdk.helpers import LAB, Control, Lab, LabStub, add_lab, control_plane, dialled, told, until

NOBODY = "127.0.0.1:9"


def known(control: Control, service: str = "labs") -> list[Instance]:
    return [one for one in control.registry.instances() if one.service == service]


async def health_of(address: str, service: str = "") -> int:
    async with dialled(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        return int((await stub.Check(health_pb2.HealthCheckRequest(service=service))).status)


SERVING = int(health_pb2.HealthCheckResponse.SERVING)
NOT_SERVING = int(health_pb2.HealthCheckResponse.NOT_SERVING)


async def test_it_registers_serves_and_leaves(control: Control) -> None:
    options: Any = {"exposure": "public", "version": "1.2", "zone": "z1", "weight": 7, "labels": {"team": "a"}}
    async with mesh.join("labs", control=control.address, telemetry=False, **options) as m:
        m.add(add_lab, Lab("one"))
        serving = asyncio.create_task(m.serve())
        (instance,) = await until(lambda: known(control), "its registration")
        assert instance.instance_id == m.instance_id
        assert m.instance_id.startswith("labs-")
        assert list(instance.endpoints) == [m.address]
        assert list(instance.grpc_services) == [LAB]
        assert (instance.version, instance.zone, instance.weight) == ("1.2", "z1", 7)
        assert (instance.exposure, instance.health) == (EXPOSURE_PUBLIC, HEALTH_SERVING)
        assert dict(instance.metadata) == {"team": "a"}
        async with dialled(m.address) as channel:
            assert json.loads(await LabStub(channel).Get(told()))["name"] == "one"
            await until(lambda: _is(m.address, SERVING), "its health")
            assert await health_of(m.address, LAB) == SERVING
            names = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(
                iter([reflection_pb2.ServerReflectionRequest(list_services="")])
            )
            async for reply in names:
                assert LAB in [one.name for one in reply.list_services_response.service]
        m.stop()
        await serving
        assert known(control) == []


async def _is(address: str, status: int) -> bool:
    return await health_of(address) == status


async def test_sigterm_lets_calls_finish(control: Control) -> None:
    lab = Lab()
    async with mesh.join("labs", control=control.address, telemetry=False) as m:
        m.add(add_lab, lab)
        serving = asyncio.create_task(m.serve())
        await until(lambda: known(control), "its registration")
        async with dialled(m.address) as channel:
            call = LabStub(channel).Get(told("wait"))
            await until(lambda: lab.waiting, "the call")
            os.kill(os.getpid(), signal.SIGTERM)
            await until(lambda: not known(control), "its leaving")
            assert not serving.done()
            lab.gate.set()
            assert await call
        await serving


async def test_calls_that_outlast_the_grace_are_cancelled(control: Control) -> None:
    lab = Lab()
    async with mesh.join("labs", control=control.address, telemetry=False, grace_seconds=0.1) as m:
        m.add(add_lab, lab)
        await m.start()
        async with dialled(m.address) as channel:
            call = LabStub(channel).Get(told("wait", who="late"))
            await until(lambda: lab.waiting, "the call")
            await m.leave()
            with pytest.raises(grpc.aio.AioRpcError):
                await call
        await until(lambda: lab.cancelled == ["late"], "its end")


async def test_it_is_registered_as_starting_until_its_gate_opens(control: Control) -> None:
    async with mesh.join("labs", control=control.address, telemetry=False) as m:
        m.add(add_lab, Lab())
        m.ready.clear("loading the cache")
        await m.start()
        (instance,) = await until(lambda: known(control), "its registration")
        assert (instance.health, instance.health_reason) == (HEALTH_STARTING, "loading the cache")
        assert await health_of(m.address) == NOT_SERVING
        m.ready.set()
        await until(lambda: known(control)[0].health == HEALTH_SERVING)
        await until(lambda: _is(m.address, SERVING))
        m.ready.clear("too much to do")
        await until(lambda: known(control)[0].health == HEALTH_NOT_SERVING)
        assert known(control)[0].health_reason == "too much to do"
        await until(lambda: _is(m.address, NOT_SERVING))


async def test_a_check_decides_as_well(control: Control) -> None:
    answers: list[Any] = [OSError("no database"), False]

    async def check() -> bool:
        answer = answers.pop(0) if answers else True
        if isinstance(answer, Exception):
            raise answer
        return bool(answer)

    async with mesh.join("labs", control=control.address, telemetry=False) as m:
        m.add(add_lab, Lab())
        await m.start(ready=check)
        assert not m.ready.is_set
        await m.ready.wait()
        assert answers == []
        await until(lambda: known(control) and known(control)[0].health == HEALTH_SERVING)


async def test_without_a_control_plane_it_says_so_and_goes_on_trying(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    async with mesh.join("labs", control=NOBODY, telemetry=False) as m:
        m.add(add_lab, Lab())
        await m.start()
        await until(lambda: "no control service answers at 127.0.0.1:9" in caplog.text, "a word of it")
        (record,) = [one for one in caplog.records if "no control" in one.getMessage()]
        assert record.levelno == logging.WARNING
        assert "mesh up" in record.getMessage()
        assert await health_of(m.address) == NOT_SERVING
        # Calls are answered all the same.
        async with dialled(m.address) as channel:
            assert await LabStub(channel).Get(told())


async def test_without_a_control_plane_it_serves_when_asked() -> None:
    async with mesh.join("labs", control=NOBODY, telemetry=False, serve_without_control=True) as m:
        m.add(add_lab, Lab())
        await m.start()
        await until(lambda: _is(m.address, SERVING))


async def test_it_registers_when_the_control_plane_comes(tmp_path: Path) -> None:
    async with control_plane(tmp_path / "one.db") as before:
        address = before.address
    async with mesh.join("labs", control=address, telemetry=False) as m:
        m.add(add_lab, Lab())
        await m.start()
        async with control_plane(tmp_path / "two.db", address) as after:
            await m.registered()
            assert len(known(after)) == 1
            await until(lambda: _is(m.address, SERVING))


async def test_of_two_with_one_id_the_first_leaves_and_says_why(
    control: Control, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        mesh.join("labs", control=control.address, telemetry=False, instance_id="same", ttl_seconds=3) as one,
        mesh.join("labs", control=control.address, telemetry=False, instance_id="same") as two,
    ):
        one.add(add_lab, Lab())
        two.add(add_lab, Lab())
        first = asyncio.create_task(one.serve())
        await until(lambda: known(control))
        await two.start()
        with pytest.raises(ReplacedError, match="stop one of the two"):
            await asyncio.wait_for(first, 30)
        assert "labs leaves the mesh: another registration took 'labs' instance 'same'" in caplog.text
        assert [list(instance.endpoints) for instance in known(control)] == [[two.address]]


async def test_what_the_registry_refuses_ends_it(control: Control) -> None:
    async with mesh.join("labs", control=control.address, telemetry=False, labels={"": "x" * 10_000}) as m:
        m.add(add_lab, Lab())
        with pytest.raises(RefusedError):
            await m.serve()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"service": "Orders!"}, "is no name of a service"),
        ({"exposure": "open"}, "neither public nor internal"),
        ({"instance_id": "a b"}, "instance_id"),
        ({"listen": "here"}, "listen: 'here' is not HOST:PORT"),
        ({"listen": "0.0.0.0:0"}, "every address of this machine"),
        ({"weight": -1}, "weight"),
        ({"ttl_seconds": 0.1}, "ttl_seconds"),
        ({"grace_seconds": -1}, "grace_seconds"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        mesh.join(**{"service": "labs", **options})


def test_the_environment_says_what_the_program_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "CONTROL": "10.0.0.1:1,10.0.0.2:1",
        "INSTANCE": "labs-7",
        "LISTEN": "0.0.0.0:50051",
        "ADVERTISE": "10.1.2.3",
        "VERSION": "2",
        "ZONE": "z",
        "ENVIRONMENT": "test",
        "STATE": "/var/lib/labs",
    }.items():
        monkeypatch.setenv(f"MESH_{name}", value)
    options = mesh.join("labs").options
    assert (options.control, options.instance_id) == ("10.0.0.1:1,10.0.0.2:1", "labs-7")
    assert (options.version, options.zone, options.environment) == ("2", "z", "test")
    assert options.state == Path("/var/lib/labs")
    assert options.reached_at(50051) == "10.1.2.3:50051"
    assert mesh.join("labs", instance_id="other").options.instance_id == "other"


@pytest.mark.parametrize(
    ("advertise", "reached"),
    [
        ("", "127.0.0.1:77"),
        ("orders.local", "orders.local:77"),
        ("orders.local:99", "orders.local:99"),
        ("[::1]", "[::1]:77"),
        ("[::1]:99", "[::1]:99"),
    ],
)
def test_where_others_reach_it(advertise: str, reached: str) -> None:
    assert mesh.join("labs", advertise=advertise).options.reached_at(77) == reached


async def test_a_handler_that_would_block_is_refused() -> None:
    class Blocking(PaymentsServicer):
        def Charge(self, request: Any, context: Any) -> Any:  # not async
            return None

    async with mesh.join("payments", control=NOBODY, telemetry=False) as m:
        with pytest.raises(UsageError, match=r"shop.v1.Payments/Charge is not async.*async def Charge"):
            m.add(add_PaymentsServicer_to_server, Blocking())


async def test_a_method_that_was_not_written_is_unimplemented() -> None:
    class Unwritten(PaymentsServicer):
        """Has nothing of its own."""

    async with mesh.join("payments", control=NOBODY, telemetry=False) as m:
        m.add(add_PaymentsServicer_to_server, Unwritten())  # type: ignore[abstract] # that is the point
        await m.start()
        async with dialled(m.address) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await PaymentsStub(channel).Charge(ChargeRequest())
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
        assert "does not implement shop.v1.Payments/Charge" in (caught.value.details() or "")


async def test_one_servicer_a_service() -> None:
    async with mesh.join("labs", control=NOBODY, telemetry=False) as m:
        m.add(add_lab, Lab())
        with pytest.raises(UsageError, match="is served already"):
            m.add(add_lab, Lab())


async def test_a_port_that_is_taken() -> None:
    async with mesh.join("labs", control=NOBODY, telemetry=False) as one, mesh.join("labs", control=NOBODY) as two:
        await one.start()
        object.__setattr__(two.options, "listen", one.address)
        with pytest.raises(StartError, match="cannot listen"):
            await two.start()


async def test_outside_of_its_block_it_is_of_no_use() -> None:
    with pytest.raises(RuntimeError, match="async with"):
        mesh.join("labs").add(add_lab, Lab())


def test_importing_the_package_brings_nothing_heavy() -> None:
    import subprocess
    import sys

    code = "import sys, mesh; print('grpc' in sys.modules, sorted(set(mesh.__all__) - set(dir(mesh))))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["False", "[]"]
