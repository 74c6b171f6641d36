"""The admin port: /metrics, /healthz and /readyz over HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import uvicorn
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from mesh.listening import cannot_listen
from proxy.admin.state import MeshState

# A scrape that hangs must not hold up the end of the edge.
_CLOSE_SECONDS = 1


def admin_app(registry: CollectorRegistry, state: MeshState) -> Starlette:
    """Return the admin port's application."""

    async def metrics(request: Request) -> Response:
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(registry), headers={"content-type": content_type})

    async def alive(_request: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def ready(_request: Request) -> Response:
        if state.draining:
            return PlainTextResponse("draining\n", status_code=503)
        if not state.directory.cluster_id:
            return PlainTextResponse("no word from the registry yet\n", status_code=503)
        return PlainTextResponse("ready\n")

    return Starlette(routes=[Route("/metrics", metrics), Route("/healthz", alive), Route("/readyz", ready)])


@contextlib.asynccontextmanager
async def serve_admin(app: Starlette, address: str) -> AsyncIterator[str]:
    """Serve `app` while the context is open; yields the address with its port resolved.

    Raises:
        StartError: the address cannot be listened on.

    """
    host, _, port = address.rpartition(":")
    bare = host.strip("[]")
    try:
        family = socket.getaddrinfo(bare, int(port), type=socket.SOCK_STREAM)[0][0]
        listening = socket.create_server((bare, int(port)), family=family)
    except OSError as error:
        raise cannot_listen(address, "--admin", error) from error
    config = uvicorn.Config(
        app, log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=_CLOSE_SECONDS
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
        """Leave the signals to the process that the admin port is a part of."""
        yield
