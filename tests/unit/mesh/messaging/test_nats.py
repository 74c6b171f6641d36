"""Conversations over the real NATS."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import nats
import pytest
from nats.aio.client import Client

from mesh.context import CallContext, current, entered
from mesh.messaging import recording
from mesh.messaging.nats import publish, request, subscribe, working_on
from mesh.telemetry.spans import CONSUMER, PRODUCER, SpanLink, SpanRecord
from tests.nats_server import PATIENCE, nats_server

pytestmark = pytest.mark.xdist_group("nats")

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
CALL = CallContext("order-42", TRACE, SPAN)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with nats_server(tmp_path_factory.mktemp("nats")) as found:
        yield found


@pytest.fixture
async def client(url: str) -> AsyncIterator[Client]:
    errors: list[Exception] = []

    async def on_error(error: Exception) -> None:
        errors.append(error)

    connected = await nats.connect(url, error_cb=on_error)
    yield connected
    await connected.drain()
    assert [error for error in errors if not isinstance(error, Meant)] == []


class Meant(Exception):  # noqa: N818 - it is one on purpose
    """A handler fails."""


@pytest.fixture
def spans() -> Iterator[list[SpanRecord]]:
    found: list[SpanRecord] = []
    with recording(found.append):
        yield found


async def test_a_conversation_goes_on_at_the_subscriber(client: Client) -> None:
    spans: list[SpanRecord] = []
    came: asyncio.Queue[tuple[CallContext | None, bytes, dict[str, str]]] = asyncio.Queue()

    async def handler(message: Any) -> None:
        await came.put((current(), message.data, message.headers))

    with recording(spans.append):
        await subscribe(client, "orders.placed", handler)
        with entered(CALL):
            assert await publish(client, "orders.placed", b"tea", headers={"k": "v"}) is None
        async with asyncio.timeout(PATIENCE):
            context, data, headers = await came.get()
        await client.flush()
    sent, worked = sorted(spans, key=lambda span: span.kind)
    assert context is not None
    assert (context.correlation_id, context.trace_id, context.span_id) == ("order-42", worked.trace_id, worked.span_id)
    assert (data, headers["k"]) == (b"tea", "v")
    assert (sent.kind, sent.trace_id, sent.parent_span_id) == (PRODUCER, TRACE, SPAN)
    assert (worked.kind, worked.links) == (CONSUMER, (SpanLink(TRACE, sent.span_id),))
    assert worked.name == "process orders.placed"
    assert worked.attributes["messaging.system"] == "nats"


async def test_a_reply_comes_back(client: Client) -> None:
    async def answer(message: Any) -> None:
        context = current()
        assert context is not None
        await message.respond(context.correlation_id.encode())

    await subscribe(client, "ask", answer, queue="workers")
    with entered(CALL):
        reply = await request(client, "ask", timeout=PATIENCE)
    assert reply.data == b"order-42"


async def test_jetstream_gives_a_message_again_and_it_is_the_same_conversation(client: Client) -> None:
    stream: Any = client.jetstream()
    await stream.add_stream(name="PAID", subjects=["paid"])
    tries: asyncio.Queue[SpanRecord] = asyncio.Queue()
    seen: list[CallContext | None] = []

    async def handler(message: Any) -> None:
        seen.append(current())
        if len(seen) == 1:
            await message.nak()
            raise Meant("not yet")

    with recording(tries.put_nowait):
        await subscribe(stream, "paid", handler, durable="once-more")
        with entered(CALL):
            stored = await publish(stream, "paid", b"12")
        assert stored.seq == 1
        async with asyncio.timeout(PATIENCE):
            # The work may end before the stream's acknowledgement is there.
            ended = [await tries.get() for _ in range(3)]
        sent, first, second = sorted(ended, key=lambda span: span.kind)
    assert [context.correlation_id for context in seen if context] == ["order-42"] * 2
    assert first.status_message == "Meant: not yet"
    assert second.status_message == ""
    assert first.links == second.links == (SpanLink(TRACE, sent.span_id),)
    assert first.trace_id != second.trace_id


async def test_messages_that_are_fetched(client: Client, spans: list[SpanRecord]) -> None:
    stream: Any = client.jetstream()
    await stream.add_stream(name="SHIPPED", subjects=["shipped"])
    for number in range(3):
        with entered(CallContext(f"order-{number}", TRACE, SPAN)):
            await publish(stream, "shipped", b"")
    subscription = await stream.pull_subscribe("shipped", durable="fetching")
    seen = []
    for message in await subscription.fetch(3, timeout=PATIENCE):
        with working_on(message, parent=True) as work:
            seen.append((work.correlation_id, work.trace_id, work.links))
            await message.ack()
    assert seen == [(f"order-{number}", TRACE, ()) for number in range(3)]
    assert [span.kind for span in spans] == [PRODUCER] * 3 + [CONSUMER] * 3
