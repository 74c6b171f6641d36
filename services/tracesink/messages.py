"""Messages through a broker: who sent them to whom, by parents and links. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from services.tracesink.trees import PRODUCER

# Of one consumer's span: it may have dealt with many messages at once.
MAX_LINKS = 128


class Message(NamedTuple):
    """One message that was dealt with."""

    sender: str
    receiver: str
    failed: bool
    # From when it was begun to be sent until it was dealt with.
    duration_ns: int


def origins(row: Mapping[str, Any]) -> set[tuple[str, str]]:
    """Return the trace and span ids that a consumer's span names: what it links to, and its parent."""
    found = {(row["trace_id"], row["parent_span_id"])} if row["parent_span_id"] else set()
    try:
        links = json.loads(row["links"] or "[]")
    except ValueError:
        return found
    for link in links[:MAX_LINKS] if isinstance(links, list) else ():
        if isinstance(link, dict) and isinstance(link.get("trace_id"), str) and isinstance(link.get("span_id"), str):
            found.add((link["trace_id"], link["span_id"]))
    return found


def messages(consumers: Sequence[Mapping[str, Any]], senders: Iterable[Mapping[str, Any]]) -> list[Message]:
    """Return the messages between spans: a consumer's and each producer's that it names, or another service's."""
    known: dict[tuple[str, str], Mapping[str, Any]] = {}
    for row in senders:
        known.setdefault((row["trace_id"], row["span_id"]), row)
    found = []
    for row in consumers:
        for origin in sorted(origins(row)):
            sender = known.get(origin)
            if sender is None or (sender["kind"] != PRODUCER and sender["service"] == row["service"]):
                continue
            duration = max(0, row["end_ns"] - sender["start_ns"])
            found.append(Message(sender["service"], row["service"], bool(row["failed"]), duration))
    return found
