"""A call, a message over the real NATS, and a call again are one conversation."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import nats
import pytest
from nats.aio.client import Client

from examples.parcels import SUBJECT, Office, Packer
from examples.shop.api.v1 import (
    CreateOrderRequest,
    OrdersStub,
    add_InventoryServicer_to_server,
    add_OrdersServicer_to_server,
)
from examples.shop.inventory import Inventory
from mesh.messaging.nats import subscribe
from mesh.telemetry.spans import CLIENT, CONSUMER, PRODUCER, SERVER, SpanLink
from mesh.testing.world import Mesh
from tests.nats_server import nats_server

pytestmark = pytest.mark.xdist_group("nats")


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with nats_server(tmp_path_factory.mktemp("nats")) as found:
        yield found


@pytest.fixture
async def broker(url: str) -> AsyncIterator[Client]:
    connected = await nats.connect(url)
    yield connected
    await connected.drain()


async def test_one_order_is_one_conversation_over_the_broker(service_mesh: Mesh, broker: Client) -> None:
    await service_mesh.run("inventory", lambda m: m.add(add_InventoryServicer_to_server, Inventory()))
    office = Office(broker)  # type: ignore[abstract] # nobody follows orders here
    await service_mesh.run("office", lambda m: m.add(add_OrdersServicer_to_server, office))

    async def packer(m: Any) -> None:
        await subscribe(broker, SUBJECT, Packer(m).pack, queue="packers")

    await service_mesh.run("packer", packer)
    await OrdersStub(service_mesh.channel("office")).CreateOrder(
        CreateOrderRequest(order_id="1", sku="tea", quantity=2), metadata=(("x-correlation-id", "order-42"),)
    )
    (reserved,) = await service_mesh.called("inventory", "Reserve")
    assert reserved.correlation_id == "order-42"

    spans = {(one.service, one.kind): one for one in await service_mesh.spans("order-42", at_least=6)}
    taken, sent = spans["office", SERVER], spans["office", PRODUCER]
    worked, asked, answered = spans["packer", CONSUMER], spans["packer", CLIENT], spans["inventory", SERVER]
    assert (sent.trace_id, sent.parent_span_id) == (taken.trace_id, taken.span_id)
    assert tuple(worked.links) == (SpanLink(sent.trace_id, sent.span_id),)
    assert worked.trace_id != sent.trace_id
    assert worked.parent_span_id == ""
    assert (asked.trace_id, asked.parent_span_id) == (worked.trace_id, worked.span_id)
    assert (answered.trace_id, answered.parent_span_id) == (worked.trace_id, asked.span_id)
