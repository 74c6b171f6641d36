"""How alerts reach people: webhooks, and Alertmanager.

What is still to be told is not queued: it is the difference between the alerts and what each receiver has taken, which
is kept with the alert. So it is bounded, survives restarts, and an alert is delivered at least once.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import logging
import random
import secrets
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import httpx

from mesh.errors import MeshError
from services.metrics.alerts.keeper import Keeper
from services.metrics.alerts.receivers import Receiver
from services.metrics.alerts.records import Kept
from services.metrics.alerts.states import State
from services.metrics.store import MetricStore

SIGNATURE = "x-mesh-signature"
TIMESTAMP = "x-mesh-timestamp"
DELIVERY = "x-mesh-delivery"
# Alerts of one request.
MAX_BATCH = 100
TIMEOUT = 10.0
# Seconds until a failed delivery is tried again: doubling, with jitter.
FIRST_RETRY, LAST_RETRY = 1.0, 60.0
# What Alertmanager is told as the end of a firing alert, in case that nothing more comes.
_ENDS_AFTER_MS = 4 * 60_000
# How often it is looked whether there is something to be told again.
_LOOK_SECONDS = 15.0

_log = logging.getLogger(__name__)


class Delivery:
    """Tells one receiver; `run` is its task."""

    def __init__(self, receiver: Receiver, keeper: Keeper, store: MetricStore) -> None:
        self._receiver = receiver
        self._keeper = keeper
        self._store = store
        # Since the start.
        self.delivered = 0
        self.failures = 0

    async def run(self) -> None:
        """Deliver without end."""
        pause = FIRST_RETRY
        async with httpx.AsyncClient(trust_env=False, follow_redirects=False, timeout=TIMEOUT) as client:
            while True:
                changed = self._keeper.changed
                due = self._due()
                try:
                    if due:
                        await self._post(client, due)
                        await self._keeper.mark_sent(self._receiver.name, self._marks(due))
                        pause = FIRST_RETRY
                        continue
                except (httpx.HTTPError, httpx.InvalidURL, MeshError) as error:
                    self.failures += 1
                    _log.warning("alerts could not be delivered to %s: %s", self._shown(), str(error)[:300])
                    await asyncio.sleep(pause * random.uniform(0.5, 1))  # noqa: S311 - not a secret
                    pause = min(pause * 2, LAST_RETRY)
                    continue
                try:
                    async with asyncio.timeout(_LOOK_SECONDS):
                        await changed.wait()
                except TimeoutError:
                    continue

    def _due(self) -> list[Kept]:
        """Return what is to be told now, at most a batch."""
        now = self._store.now_ms()
        due = []
        for kept in self._keeper.alerts():
            active = kept.active
            state, at = kept.sent.get(self._receiver.name, ("", 0))
            if active.state is State.PENDING or (active.state is State.RESOLVED and state != State.FIRING.value):
                continue
            if active.state is State.FIRING and state == State.FIRING.value:
                reminding = now - at >= self._receiver.remind * 1000
                if not reminding or (active.acknowledged is not None and not self._receiver.alertmanager):
                    continue
            if self._keeper.silenced_by(active.labels, now):
                continue
            due.append(kept)
        return due[:MAX_BATCH]

    def _marks(self, due: Sequence[Kept]) -> Mapping[str, tuple[str, int]]:
        now = self._store.now_ms()
        return {kept.fingerprint: (kept.active.state.value, now) for kept in due}

    async def _post(self, client: httpx.AsyncClient, due: Sequence[Kept]) -> None:
        receiver = self._receiver
        if receiver.alertmanager:
            url = f"{receiver.url.rstrip('/')}/api/v2/alerts"
            content: Any = [_for_alertmanager(kept, self._store.now_ms()) for kept in due]
        else:
            url, content = receiver.url, _for_webhook(due)
        body = json.dumps(content, separators=(",", ":")).encode()
        reply = await client.post(url, content=body, headers=self._headers(body))
        if not reply.is_success:
            raise httpx.HTTPError(f"it answered with status {reply.status_code}")
        self.delivered += len(due)

    def _headers(self, body: bytes) -> dict[str, str]:
        headers = {"content-type": "application/json", "user-agent": "meshplane"}
        if self._receiver.alertmanager:
            return headers
        at = str(self._store.now_ms() // 1000)
        headers |= {DELIVERY: secrets.token_hex(8), TIMESTAMP: at}
        if self._receiver.secret:
            headers[SIGNATURE] = signature(self._receiver.secret, at, body)
        return headers

    def _shown(self) -> str:
        parts = urlsplit(self._receiver.url)
        return f"{parts.scheme}://{parts.hostname}"


def signature(secret: str, timestamp: str, body: bytes) -> str:
    """Return what `x-mesh-signature` has: HMAC-SHA256 of the timestamp, a full stop and the body."""
    mac = hmac.new(secret.encode(), timestamp.encode() + b"." + body, hashlib.sha256)
    return f"sha256={mac.hexdigest()}"


def _for_webhook(due: Sequence[Kept]) -> dict[str, Any]:
    """Return a body in the form of Alertmanager's webhooks, so that what takes those takes ours."""
    firing = any(kept.active.state is State.FIRING for kept in due)
    return {
        "version": "4",
        "status": "firing" if firing else "resolved",
        "receiver": "mesh",
        "alerts": [
            {
                "status": kept.active.state.value,
                "labels": dict(kept.active.labels),
                "annotations": dict(kept.active.annotations),
                "startsAt": _time(kept.active.active_ms),
                "endsAt": _time(kept.active.resolved_ms),
                "fingerprint": kept.fingerprint,
                "value": repr(kept.active.value),
            }
            for kept in due
        ],
    }


def _for_alertmanager(kept: Kept, now_ms: int) -> dict[str, Any]:
    active = kept.active
    return {
        "labels": dict(active.labels),
        "annotations": dict(active.annotations),
        "startsAt": _time(active.active_ms),
        "endsAt": _time(active.resolved_ms or now_ms + _ENDS_AFTER_MS),
    }


def _time(at_ms: int) -> str:
    """Return a time as RFC 3339; 0 is Go's zero time, as Alertmanager has it."""
    if not at_ms:
        return "0001-01-01T00:00:00Z"
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
