"""OpenTelemetry's spans as rows. Decides, and does no I/O.

As with logs, what a resource says of itself goes into each span's attributes, with "resource." before its name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from mesh.api.otlp.v1 import SpanItem
from services.sinks.messages import Columns, flat, hexadecimal
from services.sinks.otlp import Cutter, Origin, encode, records, times, value
from services.sinks.values import Attributes, cut
from services.tracesink.records import MAX_KIND, MAX_NAME, MAX_STATUS, finished
from services.tracesink.semantics import CODE, CORRELATION, DATABASE, METHOD, PEER, ROLES, SERVICE, Promoted, promoted

_ITEMS = Columns(SpanItem)
_NO_TRACE, _NO_SPAN = pa.scalar(bytes(16)), pa.scalar(bytes(8))
_NO_LIST = pa.array(["[]"])
_PROMOTED = [METHOD, SERVICE, CODE, PEER, DATABASE]


@dataclass(frozen=True, slots=True)
class Read:
    """The rows of an export."""

    table: pa.Table
    # How many had absurd times.
    absurd: int
    # How many names, attributes, events and links were too long.
    cut: int
    # Spans whose ids are none: they cannot be stored.
    rejected: int


def from_export(data: bytes, now_ns: int) -> Read:
    """Return the spans of an export that arrives at `now_ns`, without those whose ids are none.

    Raises:
        DecodeError: it is none, or an attribute, an event, a link or a status is no message of OpenTelemetry.
        BatchError: there is too much of something.

    """
    found = records(data)
    items = _ITEMS.read(found.data)
    good = _with_ids(items)
    rejected = len(good) - int(good.sum())
    if rejected:
        found, which = found.kept(good), pa.array(good)
        items = {name: column.filter(which) for name, column in items.items()}
    cutter = Cutter()
    attributes = Attributes(items["attributes"], ROLES)
    firsts = attributes.firsts(max(_PROMOTED), CORRELATION)
    of_resources = pa.array([_correlation(origin) for origin in found.origins], pa.string())
    codes, messages = _statuses(items["status"], cutter)
    dropped = sum(
        items[f"dropped_{what}_count"].to_numpy().astype(np.int64) for what in ("attributes", "events", "links")
    )
    parents, no_span = items["parent_span_id"], pc.equal(items["parent_span_id"], _NO_SPAN)
    if pc.any(no_span).as_py():
        parents = pc.if_else(no_span, b"", parents)
    table, absurd = finished(
        {
            **found.labels(),
            **_promotions(attributes, firsts),
            "trace_id": hexadecimal(items["trace_id"]),
            "span_id": hexadecimal(items["span_id"]),
            "parent_span_id": hexadecimal(parents),
            "trace_state": cut(items["trace_state"], MAX_NAME, cutter),
            "name": cut(items["name"], MAX_NAME, cutter).dictionary_encode(),
            "start_ns": times(items["start_time_unix_nano"]),
            "end_ns": times(items["end_time_unix_nano"]),
            "kind": np.clip(items["kind"].to_numpy().astype(np.int64), 0, MAX_KIND),
            "status": codes,
            "status_message": messages,
            "flags": items["flags"].to_numpy().astype(np.int64),
            "dropped": dropped,
            "correlation_id": pc.coalesce(
                attributes.labels(firsts[:, CORRELATION]), of_resources.take(pa.array(found.places))
            ),
            "attributes": attributes.objects([origin.members for origin in found.origins], found.places, cutter),
            "events": _lists(items["events"], lambda events: _events(events, cutter)),
            "links": _lists(items["links"], lambda links: _links(links, cutter)),
        },
        now_ns,
    )
    return Read(table, absurd, cutter.cut, rejected)


def _with_ids(items: dict[str, pa.Array]) -> np.ndarray:
    """Tell which spans have ids."""
    traces, ids = items["trace_id"], items["span_id"]
    parents = pc.binary_length(items["parent_span_id"]).to_numpy()
    good: np.ndarray = (
        (pc.binary_length(traces).to_numpy() == 16)
        & (pc.binary_length(ids).to_numpy() == 8)
        & ((parents == 0) | (parents == 8))
        & pc.not_equal(traces, _NO_TRACE).to_numpy(zero_copy_only=False)
        & pc.not_equal(ids, _NO_SPAN).to_numpy(zero_copy_only=False)
    )
    return good


def _correlation(origin: Origin) -> str:
    return next((text for name, text in origin.said if text and ROLES.get(name) == CORRELATION), "")


def _promotions(attributes: Attributes, firsts: np.ndarray) -> dict[str, pa.Array]:
    """Return the columns of what is promoted: few things are said again and again."""
    # Each combination of what is said, and its number.
    known: dict[tuple[int, ...], int] = {}
    which = [known.setdefault(tuple(row), len(known)) for row in firsts[:, _PROMOTED].tolist()]
    texts = iter(attributes.labels(np.array(list(known), np.int64).reshape(-1)).to_pylist())
    made = [
        promoted([(role, text or "") for role, place, text in zip(_PROMOTED, row, texts, strict=False) if place >= 0])
        for row in known
    ]
    places = pa.array(which, pa.int32())
    return {
        name: pa.DictionaryArray.from_arrays(places, pa.array([one[place] for one in made], pa.string()))
        for place, name in enumerate(Promoted._fields)
    }


def _statuses(encoded: pa.Array, cutter: Cutter) -> tuple[np.ndarray, pa.Array]:
    """Return codes and messages."""
    known = encoded.dictionary_encode()
    read = [_status(data, cutter) for data in known.dictionary.to_pylist()]
    codes = np.array([code for code, _ in read], np.int64)[known.indices.to_numpy()]
    return codes, pa.DictionaryArray.from_arrays(known.indices, pa.array([text for _, text in read], pa.string()))


def _status(data: bytes, cutter: Cutter) -> tuple[int, str]:
    status = Status.FromString(data)
    return min(max(status.code, 0), MAX_STATUS), cutter.text(status.message, MAX_NAME)


def _lists(lists: pa.ListArray, read: Callable[[Sequence[bytes]], str]) -> pa.Array:
    """Return lists, of which nearly all are empty, as JSON."""
    items, counts = flat(lists)
    if not len(items):
        return pa.DictionaryArray.from_arrays(pa.array(np.zeros(len(counts), np.int32)), _NO_LIST)
    places, ends = np.zeros(len(counts), np.int32), np.cumsum(counts)
    made = ["[]"]
    for row in np.flatnonzero(counts):
        places[row] = len(made)
        made.append(read(items[int(ends[row] - counts[row]) : int(ends[row])].to_pylist()))
    return pa.DictionaryArray.from_arrays(pa.array(places), pa.array(made, pa.string()))


def _events(events: Sequence[bytes], cutter: Cutter) -> str:
    found = []
    for data in events:
        event = Span.Event.FromString(data)
        found.append({"ts_ns": event.time_unix_nano, "name": event.name, "attributes": _tree(event.attributes)})
    return cutter.json(encode(found), array=True)


def _links(links: Sequence[bytes], cutter: Cutter) -> str:
    found = []
    for data in links:
        link = Span.Link.FromString(data)
        one = {"trace_id": link.trace_id.hex(), "span_id": link.span_id.hex(), "attributes": _tree(link.attributes)}
        found.append(one | ({"trace_state": link.trace_state} if link.trace_state else {}))
    return cutter.json(encode(found), array=True)


def _tree(attributes: Sequence[Any]) -> dict[str, Any]:
    return {one.key: value(one.value) for one in attributes}
