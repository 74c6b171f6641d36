"""Which engine runs."""

from __future__ import annotations

import importlib.util
import logging

from mesh.tls.identity import Identity
from proxy.call.dispatch import Dispatcher
from proxy.engines.aio.engine import AioEngine
from proxy.engines.engine import Engine
from proxy.engines.options import PoolOptions, Protection, without_effect

AUTO = "auto"
WIRE = "wire"
AIO = "aio"

_log = logging.getLogger(__name__)


def make_engine(
    name: str,
    dispatcher: Dispatcher,
    upstream_tls: Identity | None = None,
    *,
    protection: Protection | None = None,
    pool: PoolOptions | None = None,
) -> Engine:
    """Return a new engine; AUTO is the fast one where its HTTP/2 library is installed.

    What the aio engine cannot obey of `protection` and `pool` is told as a warning.

    Raises:
        UsageError: the engine cannot run here; the message says what it needs.

    """
    if chosen(name) == AIO:
        protection, pool = protection or Protection(), pool or PoolOptions()
        if ignored := without_effect(protection=protection, pool=pool):
            _log.warning("the aio engine has no %s: use --engine wire for what you set", ", ".join(ignored))
        return AioEngine(dispatcher, upstream_tls=upstream_tls, protection=protection, pool=pool)
    from proxy.engines.wire.engine import WireEngine

    return WireEngine(dispatcher, upstream_tls=upstream_tls, protection=protection, pool=pool)


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
