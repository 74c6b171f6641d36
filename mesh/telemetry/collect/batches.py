"""Events on their way to the sink: parsed, gathered to batches, and sent until they are acknowledged."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from mesh.api.logsink.v1 import PushRequest
from mesh.telemetry.collect.places import Place
from mesh.telemetry.formats.events import Event
from mesh.telemetry.formats.lines import Parser, Surroundings
from mesh.telemetry.pusher import Pusher, PushError
from mesh.telemetry.record import ERROR, Record, to_batch

# What a batch may have before it goes: bounds memory, and what is parsed again after a failure.
MAX_EVENTS = 2_000
MAX_CHARACTERS = 1 << 20

_log = logging.getLogger(__name__)


class MovedError(Exception):
    """The sink has another place in this file than we thought: read on from `place.offset`."""


@dataclass(frozen=True, slots=True)
class Manner:
    """How events become records."""

    parse: Parser
    around: Callable[[], Surroundings]
    # For records that name none; "" leaves them so.
    service: str
    instance: str


class Outbox:
    """Events of one place, gathered and sent in order."""

    def __init__(self, pusher: Pusher, place: Place, manner: Manner, acknowledged: Callable[[], None]) -> None:
        """Call `acknowledged` whenever `place.offset` has moved."""
        self._pusher = pusher
        self._place = place
        self._manner = manner
        self._acknowledged = acknowledged
        self._events: list[Event] = []
        self._size = 0
        self._resumed = False

    def add(self, event: Event) -> bool:
        """Take an event; returns whether it is time to `send`."""
        self._events.append(event)
        self._size += len(event.text) + 100
        return len(self._events) >= MAX_EVENTS or self._size >= MAX_CHARACTERS

    async def resume(self) -> None:
        """Ask the sink how far it is, until it answers, and move `place.offset` there."""
        told = False
        while True:
            try:
                durable = await self._pusher.resume()
            except PushError as error:
                if not told:
                    _log.warning("%s: %s; trying again", self._place.path, error)
                told = True
                await self._pusher.pause(error)
                continue
            self._resumed = True
            # 0: it knows nothing of us, because it is new or has forgotten. What was acknowledged was stored then.
            if durable and durable != self._place.offset:
                self._place.offset = durable
                self._acknowledged()
            return

    async def send(self) -> None:
        """Send what was gathered and wait, as long as it takes, until it is acknowledged.

        Raises:
            MovedError: read again from `place.offset`; what was gathered is gone.

        """
        if not self._events:
            return
        events, self._events, self._size = self._events, [], 0
        place, end = self._place, events[-1].end
        request = await asyncio.to_thread(self._encoded, events, place.offset)
        while True:
            before = place.offset
            if not self._resumed:
                await self.resume()
                if place.offset == end:
                    return
                if place.offset != before:
                    raise MovedError
            try:
                reply = await self._pusher.push(request)
            except PushError:
                self._resumed = False
                continue
            if not reply.rejected:
                break
            _log.error("%s: %d events are refused: %s", place.path, len(events), reply.rejected)
            note = f"{len(events)} events of {place.path} could not be stored: {reply.rejected}"
            lost = Record(note, severity=ERROR, service=self._manner.service, instance=self._manner.instance)
            batch = to_batch([lost], time.time_ns())
            request = PushRequest(seq=end, after=place.offset, batch=batch).SerializeToString()
        place.offset = end
        self._acknowledged()

    def _encoded(self, events: list[Event], after: int) -> bytes:
        manner = self._manner
        around = manner.around()
        records = []
        for event in events:
            record = manner.parse(event.text, around) or Record(event.text)
            record.service = record.service or manner.service
            record.instance = record.instance or manner.instance
            records.append(record)
        batch = to_batch(records, around.now_ns)
        return PushRequest(seq=events[-1].end, after=after, batch=batch).SerializeToString()
