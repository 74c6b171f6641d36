"""Which engine runs."""

from __future__ import annotations

import importlib.util

from proxy.call.dispatch import Dispatcher
from proxy.engines.aio.engine import AioEngine
from proxy.engines.engine import Engine
from proxy.tls.identity import Identity

AUTO = "auto"
WIRE = "wire"
AIO = "aio"


def make_engine(name: str, dispatcher: Dispatcher, upstream_tls: Identity | None = None) -> Engine:
    """Return a new engine; AUTO is the fast one where its HTTP/2 library is installed.

    Raises:
        UsageError: the engine cannot run here; the message says what it needs.

    """
    if chosen(name) == AIO:
        return AioEngine(dispatcher, upstream_tls=upstream_tls)
    from proxy.engines.wire.engine import WireEngine

    return WireEngine(dispatcher, upstream_tls=upstream_tls)


def takes_sockets(name: str) -> bool:
    """Tell whether the engine can serve a socket that another process made; grpc.aio only binds its own."""
    return chosen(name) == WIRE


def chosen(name: str) -> str:
    """Return the engine that runs here by that name."""
    if name == AUTO:
        return WIRE if importlib.util.find_spec("ngh2") is not None else AIO
    return name


def prove_engine(name: str) -> None:
    """Raise UsageError when an engine cannot run here, as `make_engine` would."""
    if chosen(name) == WIRE:
        from proxy.engines.wire.h2 import load

        load()
