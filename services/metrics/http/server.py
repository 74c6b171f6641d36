"""The HTTP port of the control process."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import uvicorn
from starlette.applications import Starlette

from mesh.listening import cannot_listen

# A request that hangs must not hold up the end of the process.
_CLOSE_SECONDS = 1
_MAX_CONNECTIONS = 500


@contextlib.asynccontextmanager
async def serve_http(app: Starlette, address: str, option: str) -> AsyncIterator[str]:
    """Serve `app` at "HOST:PORT" while the context is open; yields the address, its port resolved.

    Raises:
        StartError: the address, which `option` gave, cannot be listened on.

    """
    host, _, port = address.rpartition(":")
    bare = host.strip("[]")
    try:
        family = socket.getaddrinfo(bare, int(port), type=socket.SOCK_STREAM)[0][0]
        listening = socket.create_server((bare, int(port)), family=family)
    except OSError as error:
        raise cannot_listen(address, option, error) from error
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        lifespan="off",
        limit_concurrency=_MAX_CONNECTIONS,
        timeout_graceful_shutdown=_CLOSE_SECONDS,
    )
    server = _Server(config)
    with listening:
        task = asyncio.create_task(server.serve(sockets=[listening]))
        try:
            yield f"{host}:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            await task


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self):  # type: ignore[no-untyped-def]  # noqa: ANN202
        """Leave the signals to the process."""
        yield
