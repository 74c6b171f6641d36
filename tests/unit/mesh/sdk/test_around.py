"""What a joined process notes beside its calls: messages, and what blocks its event loop; and servicers of its own."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from typing import Any

import grpc
import pytest

import mesh
from mesh.messaging import consuming, producing
from mesh.telemetry.blocking import METRIC
from mesh.telemetry.spans import CONSUMER, PRODUCER, SERVER
from tests.unit.mesh.sdk.helpers import LAB, PATIENCE, Control, Lab, LabStub, add_lab, dialled, told, until


class Sends(Lab):
    """Sends a message in each call."""

    async def do(self, request: bytes, context: Any) -> bytes:
        with producing({}, destination="done"):
            return await super().do(request, context)


async def test_messages_are_spans_of_who_joined(control: Control) -> None:
    async with mesh.join("labs", control=control.address, version="2") as m:
        m.add(add_lab, Sends())
        await m.start()
        async with dialled(m.address) as channel:
            await LabStub(channel).Get(told(), metadata=(("x-correlation-id", "order-42"),))
        with consuming({"x-correlation-id": "order-42"}):
            pass
        spans = {span.kind: span for span in m._spans.take(10)}
    assert set(spans) == {SERVER, PRODUCER, CONSUMER}
    assert {span.correlation_id for span in spans.values()} == {"order-42"}
    assert {(span.service, span.instance, span.version) for span in spans.values()} == {("labs", m.instance_id, "2")}
    assert spans[PRODUCER].parent_span_id == spans[SERVER].span_id


class Blocks(Lab):
    """Holds the loop up."""

    async def do(self, request: bytes, context: Any) -> bytes:
        time.sleep(json.loads(request)["seconds"])  # noqa: ASYNC251 - this is it
        return b"{}"


@pytest.mark.parametrize("method", ["Get", "List"])
async def test_a_handler_that_blocks_the_loop_is_named(
    control: Control, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "mesh.telemetry.blocking")
    async with mesh.join("labs", control=control.address) as m:
        m.add(add_lab, Blocks())
        await m.start()
        seconds = 0.3
        async with dialled(m.address) as channel, asyncio.timeout(PATIENCE):
            # Longer where the machine has no time for the watch.
            while not (found := [one for one in caplog.records if one.name == "mesh.telemetry.blocking"]):
                request = json.dumps({"seconds": seconds, "times": 1}).encode()
                metadata = (("x-correlation-id", "order-42"),)
                if method == "Get":
                    await LabStub(channel).Get(request, metadata=metadata)
                else:
                    assert [one async for one in LabStub(channel).List(request, metadata=metadata)]
                seconds *= 2
                await asyncio.sleep(0.05)
        said = found[0].getMessage()
        assert "by Blocks.do (tests/unit/mesh/sdk/test_around.py:" in said
        assert f"serving /{LAB}/{method}:" in said
        count = m.metrics.get_sample_value(f"{METRIC}_count", {"function": "Blocks.do"})
    assert count is not None
    assert count >= 1


async def test_a_servicer_that_is_not_announced_is_served_and_not_known(control: Control) -> None:
    async with mesh.join("labs", control=control.address) as m:
        m.add(add_lab, Lab(), announced=False)
        await m.start()
        (instance,) = await until(
            lambda: [one for one in control.registry.instances() if one.service == "labs"], "its registration"
        )
        assert list(instance.grpc_services) == []
        assert m.port == int(m.address.rpartition(":")[2])
        async with dialled(m.address) as channel:
            assert json.loads(await LabStub(channel).Get(told()))["deadline"] is False
            with pytest.raises(grpc.aio.AioRpcError):
                await LabStub(channel).Get(told("raise"))
