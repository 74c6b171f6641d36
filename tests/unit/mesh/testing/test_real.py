"""The real control services as tests of services have them."""

from __future__ import annotations

from pathlib import Path

import pytest

from mesh.api.registry.v1 import ListRequest, RegisterRequest, RegistryStub
from mesh.discovery.channel import control_channel
from mesh.discovery.convert import instance_to_proto
from mesh.discovery.model import Instance
from mesh.errors import StartError
from mesh.testing.real import RealControl

ORDERS = Instance("orders", "orders-1", ("127.0.0.1:1",))


async def registered(address: str) -> list[str]:
    async with control_channel(address) as channel:
        reply = await RegistryStub(channel).List(ListRequest(service="orders"), wait_for_ready=True)
    return [one.instance_id for one in reply.instances]


async def test_it_comes_back_where_it_was_with_what_it_had(mesh_control: RealControl) -> None:
    address = mesh_control.address
    async with control_channel(address) as channel:
        await RegistryStub(channel).Register(RegisterRequest(instance=instance_to_proto(ORDERS), ttl_seconds=600))
    await mesh_control.kill()
    await mesh_control.start()
    assert mesh_control.address == address
    assert await registered(address) == ["orders-1"]


async def test_one_that_cannot_start_says_why(mesh_control: RealControl, tmp_path: Path) -> None:
    other = RealControl(tmp_path / "other")
    other.address = mesh_control.address
    with pytest.raises(StartError, match="cannot listen on"):
        await other.start()
