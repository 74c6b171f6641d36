"""One collector as grpc reaches it: exports of one signal, tried again until it has answered."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

import grpc

from mesh.telemetry.retrying import retry_after
from services.forwarding.options import ForwardOptions, Signal, Target
from services.forwarding.origin import metadata
from services.forwarding.split import SHAPES

_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 5_000),
    ("grpc.max_reconnect_backoff_ms", 5_000),
    ("grpc.max_send_message_length", -1),
)
# Waits between tries in seconds, doubled with each failure in a row; and what a collector may ask for at most.
FIRST_WAIT, LONGEST_WAIT, LONGEST_ASKED = 0.25, 15.0, 60.0

_Code = grpc.StatusCode
# As OTLP says, and what is mended by who runs the collector: a token that has run out shall not cost the records.
_AGAIN = frozenset(
    {
        *(_Code.CANCELLED, _Code.DEADLINE_EXCEEDED, _Code.ABORTED, _Code.OUT_OF_RANGE, _Code.UNAVAILABLE),
        *(_Code.DATA_LOSS, _Code.UNAUTHENTICATED, _Code.PERMISSION_DENIED),
    }
)


class RefusedError(Exception):
    """The collector will not take it, now or later."""


class Sender:
    """Sends to one collector, one export at a time."""

    def __init__(self, target: Target, signal: Signal, options: ForwardOptions, via: str) -> None:
        """Send as the control process `via`. Raises UsageError when files of the target cannot be read."""
        self._target = target
        self._options = options
        self._via = via
        self._shape = SHAPES[signal]
        self._credentials = grpc.ssl_channel_credentials(*target.files()) if target.tls else None
        self._channel: grpc.aio.Channel | None = None
        self._failures = 0

    async def send(
        self, data: bytes, producer: str, seq: int, via: tuple[str, ...], retried: Callable[[str], None]
    ) -> tuple[int, str]:
        """Return how many records it refused, and why, when it has answered; call `retried` before each new try.

        Raises:
            RefusedError: it refused all of them, for good.

        """
        headers = (*self._target.headers, *metadata(producer, seq, (*via, self._via)))
        while True:
            if self._channel is None:
                self._channel = self._connect()
            export: Any = self._channel.unary_unary(
                self._shape.method, response_deserializer=self._shape.response.FromString
            )
            try:
                reply = await export(
                    data, timeout=self._options.timeout, metadata=headers, compression=grpc.Compression.Gzip
                )
            except grpc.aio.AioRpcError as error:
                asked = retry_after(error)
                said = f"{error.code().name}: {' '.join((error.details() or 'nothing more').split())[:300]}"
                # A full collector says when to come back; one that does not has refused it.
                if error.code() not in _AGAIN and not (error.code() is _Code.RESOURCE_EXHAUSTED and asked is not None):
                    raise RefusedError(said) from error
                if error.code() is _Code.DEADLINE_EXCEEDED:  # the connection may lead nowhere any more
                    await self.close()
                retried(said)
                await self._pause(asked)
                continue
            self._failures = 0
            partial = reply.partial_success
            return getattr(partial, self._shape.rejected), partial.error_message[:300]

    async def close(self) -> None:
        channel, self._channel = self._channel, None
        if channel is not None:
            await channel.close()

    async def _pause(self, asked: float | None) -> None:
        wait = min(LONGEST_WAIT, FIRST_WAIT * 2**self._failures)
        self._failures = min(self._failures + 1, 10)
        # Jitter, so that a fleet does not come back in step.
        wait *= random.uniform(0.5, 1)  # noqa: S311 - not a secret
        await asyncio.sleep(max(wait, min(asked or 0.0, LONGEST_ASKED)))

    def _connect(self) -> grpc.aio.Channel:
        if self._credentials is None:
            return grpc.aio.insecure_channel(self._target.address, options=_OPTIONS)
        return grpc.aio.secure_channel(self._target.address, self._credentials, options=_OPTIONS)
