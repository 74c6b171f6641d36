"""Payments: takes the money, once an order."""

from __future__ import annotations

import logging
from typing import Any

import grpc

import mesh
from examples.shop.api.v1 import ChargeRequest, ChargeResponse, PaymentsServicer

log = logging.getLogger("shop.payments")


class Payments(PaymentsServicer):
    """Keeps its charges in memory: it is a demo's bank."""

    def __init__(self) -> None:
        self._charges: dict[str, str] = {}

    async def Charge(self, request: ChargeRequest, context: grpc.aio.ServicerContext[Any, Any]) -> ChargeResponse:
        mesh.annotate("order.id", request.order_id)
        if not request.order_id or not request.amount_cents:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "order_id and amount_cents are needed")
        payment = self._charges.setdefault(request.order_id, f"pay-{len(self._charges) + 1}")
        log.info("order %s: %s takes %d cents", request.order_id, payment, request.amount_cents)
        return ChargeResponse(payment_id=payment)
