"""Correlation over NATS, with and without JetStream: what `nats-py` sends and takes, in its conversation.

The extra `meshplane[nats]` brings nats-py. Each function takes the client as it is, `nats.connect()`'s or its
`jetstream()`, and passes options on to it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from mesh.messaging.working import consuming, producing
from mesh.telemetry.spans import SpanRecord

if TYPE_CHECKING:
    # Annotations alone: the client that is passed in is all that is used.
    from nats.aio.client import Client
    from nats.aio.msg import Msg
    from nats.js import JetStreamContext

    Publisher: TypeAlias = Client | JetStreamContext

SYSTEM = "nats"
_SIZE = "messaging.message.body.size"


async def publish(
    client: Publisher, subject: str, payload: bytes = b"", *, headers: Mapping[str, str] | None = None, **options: Any
) -> Any:
    """Publish a message of the present conversation; returns what the client's `publish` returns.

    That is None with plain NATS and the stream's acknowledgement with JetStream.
    """
    sent = dict(headers or {})
    with producing(sent, destination=subject, system=SYSTEM) as span:
        span.attributes = {**span.attributes, _SIZE: len(payload)}
        return await client.publish(subject, payload, headers=sent, **options)


async def request(
    client: Client,
    subject: str,
    payload: bytes = b"",
    *,
    timeout: float = 0.5,  # noqa: ASYNC109 - as nats-py has it
    headers: Mapping[str, str] | None = None,
) -> Msg:
    """Send a request of the present conversation and return its reply; raises nats-py's errors."""
    sent = dict(headers or {})
    with producing(sent, destination=subject, system=SYSTEM):
        return await client.request(subject, payload, timeout=timeout, headers=sent)


async def subscribe(
    client: Publisher,
    subject: str,
    handler: Callable[[Msg], Awaitable[None]],
    *,
    parent: bool = False,
    **options: Any,
) -> Any:
    """Subscribe; `handler` runs in the conversation of each message. Returns the client's subscription.

    With JetStream a message is acknowledged when `handler` returned, unless `manual_ack` is among the options; when it
    raises it is not, and the message comes again. nats-py reports what is raised to its `error_cb`.
    """

    async def in_conversation(message: Msg) -> None:
        with working_on(message, parent=parent):
            await handler(message)

    return await client.subscribe(subject, cb=in_conversation, **options)


@contextlib.contextmanager
def working_on(message: Msg, *, parent: bool = False) -> Iterator[SpanRecord]:
    """Work on a message that was fetched or iterated over: `for message in await subscription.fetch(10): ...`."""
    with consuming(message.headers, destination=message.subject, system=SYSTEM, parent=parent) as span:
        span.attributes = {**span.attributes, _SIZE: len(message.data)}
        yield span
