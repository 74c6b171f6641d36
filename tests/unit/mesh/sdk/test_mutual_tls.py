"""Mutual TLS to the control plane and between services."""

from __future__ import annotations

import json
from pathlib import Path

import grpc
import pytest

import mesh
from mesh.tls.options import ListenerTls
from tests.certificates import Authority
from tests.unit.mesh.sdk.helpers import Lab, LabStub, add_lab, control_plane, dialled, told


async def test_everything_by_mutual_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = Authority()
    ca = authority.write(tmp_path, "ca")
    cert, key = authority.sign(names=("127.0.0.1", "localhost")).write(tmp_path, "all")
    for name, value in {"MESH_CA": ca, "MESH_CERT": cert, "MESH_KEY": key}.items():
        monkeypatch.setenv(name, value)
    tls = ListenerTls(cert, key, client_ca=ca)
    async with (
        control_plane(tmp_path / "kv.db", tls=tls) as control,
        mesh.join("labs", control=control.address, telemetry=False, tls=tls) as served,
        mesh.join("caller", control=control.address, telemetry=False) as client,
    ):
        served.add(add_lab, Lab("safe"))
        await served.start()
        await served.registered()
        (instance,) = control.registry.instances()
        assert dict(instance.metadata) == {"tls": "on"}
        answer = await LabStub(client.channel("labs")).Get(told(), wait_for_ready=True)
        assert json.loads(answer)["name"] == "safe"
        async with dialled(served.address) as plaintext:
            with pytest.raises(grpc.aio.AioRpcError):
                await LabStub(plaintext).Get(told(), timeout=20)
