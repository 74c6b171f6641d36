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

_UNIX = "unix:"


def admin_app(registry: CollectorRegistry, state: MeshState) -> Starlette:
    """Return the admin port's application."""

    async def metrics(request: Request) -> Response:
        return encoded(registry, request)

    async def alive(_request: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def ready(_request: Request) -> Response:
        if state.draining:
            return PlainTextResponse("draining\n", status_code=503)
        if not state.directory.cluster_id:
            return PlainTextResponse("no word from the registry yet\n", status_code=503)
        return PlainTextResponse("ready\n")

    return Starlette(routes=[Route("/metrics", metrics), Route("/healthz", alive), Route("/readyz", ready)])


def encoded(registry: CollectorRegistry, request: Request) -> Response:
    """Return the metrics in the format that the client prefers."""
    encode, content_type = choose_encoder(request.headers.get("accept", ""))
    return Response(encode(registry), headers={"content-type": content_type})


@contextlib.asynccontextmanager
async def serve_admin(app: Starlette, address: str) -> AsyncIterator[str]:
    """Serve `app` while the context is open, at "HOST:PORT" or "unix:PATH"; yields the address, its port resolved.

    Raises:
        StartError: the address cannot be listened on.

    """
    try:
        listening = _listen(address)
    except OSError as error:
        raise cannot_listen(address, "--admin", error) from error
    config = uvicorn.Config(
        app, log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=_CLOSE_SECONDS
    )
    server = _Server(config)
    with listening:
        task = asyncio.create_task(server.serve(sockets=[listening]))
        try:
            yield _resolved(address, listening)
        finally:
            server.should_exit = True
            await task


def _listen(address: str) -> socket.socket:
    if address.startswith(_UNIX):
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listening.bind(address.removeprefix(_UNIX))
        listening.listen()
        return listening
    host, _, port = address.rpartition(":")
    bare = host.strip("[]")
    family = socket.getaddrinfo(bare, int(port), type=socket.SOCK_STREAM)[0][0]
    return socket.create_server((bare, int(port)), family=family)


def _resolved(address: str, listening: socket.socket) -> str:
    if address.startswith(_UNIX):
        return address
    return f"{address.rpartition(':')[0]}:{listening.getsockname()[1]}"


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self):  # type: ignore[no-untyped-def]  # noqa: ANN202
        """Leave the signals to the process that the admin port is a part of."""
        yield
