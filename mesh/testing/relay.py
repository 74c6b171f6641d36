"""A wire on loopback that can be cut: between callers and an instance, or an instance and the control services."""

from __future__ import annotations

import asyncio
from typing import Self

# Bytes that may wait on one side before the other is read no further.
_CHUNK = 1 << 16


class Relay:
    """Forwards connections from `address` to where `lead_to` says. Use as `async with Relay()`.

    While it is cut, connections are reset as they come, and those that were there are; while it is stalled, no byte
    passes and none is refused, as behind a process that is stopped, or a network that swallows.
    """

    def __init__(self) -> None:
        self._target: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._server: asyncio.Server | None = None
        self._open: dict[asyncio.Task[None], tuple[asyncio.StreamWriter, ...]] = {}
        self._cut = False
        self._passing = asyncio.Event()
        self._passing.set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.close()
        self._reset()
        for task in (tasks := list(self._open)):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    @property
    def address(self) -> str:
        """Where it is reached, "HOST:PORT"."""
        assert self._server is not None
        host, port = self._server.sockets[0].getsockname()
        return f"{host}:{port}"

    def lead_to(self, address: str) -> None:
        """Forward to "HOST:PORT", from now on; connections that came before wait for it."""
        if self._target.done():
            self._target = asyncio.get_running_loop().create_future()
        self._target.set_result(address)

    def cut(self) -> None:
        """Reset all connections, and those that come."""
        self._cut = True
        self._reset()

    def stall(self) -> None:
        """Let no byte pass."""
        self._passing.clear()

    def mend(self) -> None:
        """Forward again."""
        self._cut = False
        self._passing.set()

    def reset(self) -> None:
        """Reset the connections that there are; new ones are taken."""
        self._reset()

    def _reset(self) -> None:
        for writers in self._open.values():
            for writer in writers:
                writer.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        if self._cut:
            writer.transport.abort()
            return
        self._open[task] = (writer,)
        try:
            host, _, port = (await self._target).rpartition(":")
            onward, back = await asyncio.open_connection(host, int(port))
            self._open[task] = (writer, back)
            async with asyncio.TaskGroup() as both:
                both.create_task(self._pass(reader, back))
                both.create_task(self._pass(onward, writer))
        except* (OSError, asyncio.CancelledError):
            pass  # an end is an end, whoever made it
        finally:
            for one in self._open.pop(task):
                one.transport.abort()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(_CHUNK):
            await self._passing.wait()
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()
