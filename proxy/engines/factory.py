"""Which engine runs."""

from __future__ import annotations

import importlib.util

from proxy.call.dispatch import Dispatcher
from proxy.engines.aio.engine import AioEngine
from proxy.engines.engine import Engine

AUTO = "auto"
WIRE = "wire"
AIO = "aio"


def make_engine(name: str, dispatcher: Dispatcher) -> Engine:
    """Return a new engine; AUTO is the fast one where its HTTP/2 library is installed.

    Raises:
        UsageError: the engine cannot run here; the message says what it needs.

    """
    if name == AIO or (name == AUTO and importlib.util.find_spec("ngh2") is None):
        return AioEngine(dispatcher)
    from proxy.engines.wire.engine import WireEngine

    return WireEngine(dispatcher)
