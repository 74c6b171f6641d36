"""What a call's route asks for that is not plain: looked at only where there is something."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from mesh.resilience.deadline import parse_timeout
from proxy.engines.wire.again import Again

if TYPE_CHECKING:
    from proxy.engines.wire.exchange import Exchange
    from proxy.routing.mirror import Mirror
    from proxy.routing.table import MethodRoute

_log = logging.getLogger(__name__)


def mind(exchange: Exchange, route: MethodRoute) -> None:
    """Do what the route of an admitted call asks for."""
    call, plan = exchange.call, route.plan
    if plan is not None and plan.retries is not None:
        exchange.again = Again(exchange, plan.retries)
    if route.limits is not None:
        exchange.max_message_bytes = route.limits.max_message_bytes
    if route.mirror is not None:
        _mirror(exchange, route.mirror)
    if route.is_local and call.deadline is None:
        # The pipeline of local calls does not read it.
        value = call.header(b"grpc-timeout")
        seconds = parse_timeout(value) if value is not None else None
        call.deadline = None if seconds is None else call.started_at + seconds


def _mirror(exchange: Exchange, mirror: Mirror) -> None:
    from proxy.engines.wire import mirroring  # which is made of exchanges

    try:
        mirroring.begin(exchange, mirror)
    except Exception:  # noqa: BLE001 - whatever it is, it is not the call's trouble
        _log.exception("a copy failed")
