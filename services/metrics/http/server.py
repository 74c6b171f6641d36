"""The HTTP port of the control process."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import uvicorn
from starlette.applications import Starlette

# A request that hangs must not hold up the end of the process.
_CLOSE_SECONDS = 1
_MAX_CONNECTIONS = 500


@contextlib.asynccontextmanager
async def serve_http(app: Starlette, at: socket.socket) -> AsyncIterator[None]:
    """Serve `app` at a socket that has an address while the context is open."""
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        lifespan="off",
        limit_concurrency=_MAX_CONNECTIONS,
        timeout_graceful_shutdown=_CLOSE_SECONDS,
    )
    server = _Server(config)
    # The server closes what it is given.
    task = asyncio.create_task(server.serve(sockets=[at.dup()]))
    try:
        yield
    finally:
        server.should_exit = True
        await task


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self):  # type: ignore[no-untyped-def]  # noqa: ANN202
        """Leave the signals to the process."""
        yield
