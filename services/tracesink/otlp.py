"""OpenTelemetry's spans as rows. Decides, and does no I/O.

As with logs, what a resource says of itself goes into each span's attributes, with "resource." before its name. What is
done for each span is done by columns where that can be: a loop of Python costs most here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from mesh.api.otlp.v1 import TracesRequest
from services.sinks.columns import MAX_TEXT
from services.sinks.otlp import Cutter, Members, encode, label, read, times, value
from services.tracesink.records import MAX_KIND, MAX_NAME, MAX_STATUS, finished
from services.tracesink.semantics import CORRELATION, ROLES, Promoted, promoted

_members = Members(ROLES)
_NO_TRACE, _NO_SPAN = bytes(16), bytes(8)
_NO_STATUS = (0, "")


class Rows:
    """Rows as columns while they are gathered."""

    def __init__(self) -> None:
        # Ids as they came.
        self.ids: dict[str, list[bytes]] = {"trace_id": [], "span_id": [], "parent_span_id": []}
        self.texts: dict[str, list[str]] = {
            name: []
            for name in (*("name", "trace_state", "status_message", "correlation_id", "attributes", "events", "links"),)
        }
        # What spans say that is promoted, and which of them each says.
        self.promoted: dict[Promoted, int] = {}
        self.promotions: list[int] = []
        self.start: list[int] = []
        self.end: list[int] = []
        self.kind: list[int] = []
        self.status: list[int] = []
        self.flags: list[int] = []
        self.dropped: list[int] = []
        # The same for all spans of a scope: (service, instance, version, scope), and how many.
        self.origins: list[tuple[tuple[str, str, str, str], int]] = []
        # Of attributes, events, links and names.
        self.cutter = Cutter()
        # Spans whose ids are none: they cannot be stored.
        self.rejected = 0

    def table(self, now_ns: int) -> tuple[pa.Table, int]:
        """Return them as a table, and how many had absurd times."""
        counts = np.array([count for _, count in self.origins], np.int64)
        places = pa.array(np.repeat(np.arange(len(counts), dtype=np.int32), counts))
        origins = [list(column) for column in zip(*(origin for origin, _ in self.origins), strict=True)] or [[]] * 4
        same = {
            name: pa.DictionaryArray.from_arrays(places, pa.array(column, pa.string()))
            for name, column in zip(("service", "instance", "version", "scope"), origins, strict=True)
        }
        texts = {name: pa.array(column, pa.string()) for name, column in self.texts.items()}
        for name in ("name", "status_message", "events", "links"):
            texts[name] = texts[name].dictionary_encode()
        which = pa.array(np.array(self.promotions, np.int32))
        promotions = {
            name: pa.DictionaryArray.from_arrays(which, pa.array([one[place] for one in self.promoted], pa.string()))
            for place, name in enumerate(Promoted._fields)
        }
        return finished(
            {
                **same,
                **texts,
                **promotions,
                **{name: _hexadecimal(column) for name, column in self.ids.items()},
                "start_ns": times(self.start),
                "end_ns": times(self.end),
                "kind": np.clip(np.array(self.kind, np.int64), 0, MAX_KIND),
                "status": np.array(self.status, np.int64),
                "flags": np.array(self.flags, np.int64),
                "dropped": np.array(self.dropped, np.int64),
            },
            now_ns,
        )


def from_export(request: TracesRequest) -> Rows:
    """Return the spans of an export as rows, without those whose ids are none.

    Raises:
        DecodeError: an attribute, an event, a link or a status is no message of OpenTelemetry.

    """
    rows = Rows()
    for group in request.resource_spans:
        resource = dict(map(read, group.resource.attributes))
        named = [label(resource.pop(name, "")) for name in ("service.name", "service.instance.id", "service.version")]
        ids = [label(found) for name, found in resource.items() if ROLES.get(name) == CORRELATION]
        common = encode({f"resource.{name}": found for name, found in resource.items()})[1:-1]
        for scoped in group.scope_spans:
            # A list: each pass over the field itself would make its objects anew.
            spans = _add_ids(rows, list(scoped.spans))
            _add(rows, spans)
            _add_attributes(rows, spans, common, next(filter(None, ids), ""))
            rows.origins.append(((named[0], named[1], named[2], label(scoped.scope.name)), len(spans)))
    return rows


def _add_ids(rows: Rows, spans: list[Any]) -> list[Any]:
    """Add the ids of the spans, and return those that have them."""
    traces = [span.trace_id for span in spans]
    ids = [span.span_id for span in spans]
    parents = [span.parent_span_id for span in spans]
    if (
        {*map(len, traces)} - {16}
        or {*map(len, ids)} - {8}
        or {*map(len, parents)} - {0, 8}
        or _NO_TRACE in traces
        or _NO_SPAN in ids
    ):
        good = [span for span in spans if _has_ids(span)]
        rows.rejected += len(spans) - len(good)
        return _add_ids(rows, good)
    if _NO_SPAN in parents:
        parents = [b"" if parent == _NO_SPAN else parent for parent in parents]
    rows.ids["trace_id"] += traces
    rows.ids["span_id"] += ids
    rows.ids["parent_span_id"] += parents
    return spans


def _has_ids(span: Any) -> bool:
    return (
        len(span.trace_id) == 16
        and len(span.span_id) == 8
        and len(span.parent_span_id) in (0, 8)
        and span.trace_id != _NO_TRACE
        and span.span_id != _NO_SPAN
    )


def _hexadecimal(ids: list[bytes]) -> pa.Array:
    """Return ids as texts, all at once."""
    offsets = np.zeros(len(ids) + 1, np.int32)
    np.cumsum(np.fromiter(map(len, ids), np.int32, len(ids)) * 2, out=offsets[1:])
    digits = b"".join(ids).hex().encode()
    return pa.StringArray.from_buffers(len(ids), pa.py_buffer(offsets), pa.py_buffer(digits))


def _add(rows: Rows, spans: Sequence[Any]) -> None:
    texts, cutter = rows.texts, rows.cutter
    rows.start += [span.start_time_unix_nano for span in spans]
    rows.end += [span.end_time_unix_nano for span in spans]
    rows.kind += [span.kind for span in spans]
    rows.flags += [span.flags for span in spans]
    rows.dropped += [
        span.dropped_attributes_count + span.dropped_events_count + span.dropped_links_count for span in spans
    ]
    for name, column in (
        ("name", [span.name for span in spans]),
        ("trace_state", [span.trace_state for span in spans]),
    ):
        long = max(map(len, column), default=0) > MAX_NAME // 4
        texts[name] += [cutter.text(text, MAX_NAME) for text in column] if long else column
    states = [_status(data, cutter) if (data := span.status) else _NO_STATUS for span in spans]
    rows.status += [code for code, _ in states]
    texts["status_message"] += [message for _, message in states]
    texts["events"] += [_events(cutter, events) if (events := span.events) else "[]" for span in spans]
    texts["links"] += [_links(cutter, links) if (links := span.links) else "[]" for span in spans]


def _add_attributes(rows: Rows, spans: Sequence[Any], common: str, correlation: str) -> None:
    before = f"{common}," if common else ""
    known, add = _members.known, _members.add
    attributes, ids, promotions = rows.texts["attributes"], rows.texts["correlation_id"], rows.promotions
    # By what is said: the place of what is promoted.
    places: dict[tuple[tuple[int, str], ...], int] = {}
    for span in spans:
        members, said, own = [], [], ""
        for data in span.attributes:
            found = known.get(data) or add(data)
            members.append(found[0])
            if found[1]:
                if found[1] == CORRELATION:
                    own = own or found[2]
                else:
                    said.append(found[1:])
        text = f"{{{before}{','.join(members)}}}" if members else f"{{{common}}}"
        attributes.append(text if len(text) <= MAX_TEXT // 4 else rows.cutter.json(text))
        ids.append(own or correlation)
        key = tuple(said)
        place = places.get(key)
        if place is None:
            place = places[key] = rows.promoted.setdefault(promoted(key), len(rows.promoted))
        promotions.append(place)


def _status(data: bytes, cutter: Cutter) -> tuple[int, str]:
    status = Status.FromString(data)
    return min(max(status.code, 0), MAX_STATUS), cutter.text(status.message, MAX_NAME)


def _events(cutter: Cutter, events: Sequence[bytes]) -> str:
    found = []
    for data in events:
        event = Span.Event.FromString(data)
        found.append({"ts_ns": event.time_unix_nano, "name": event.name, "attributes": _tree(event.attributes)})
    return cutter.json(encode(found), array=True)


def _links(cutter: Cutter, links: Sequence[bytes]) -> str:
    found = []
    for data in links:
        link = Span.Link.FromString(data)
        one = {"trace_id": link.trace_id.hex(), "span_id": link.span_id.hex(), "attributes": _tree(link.attributes)}
        found.append(one | ({"trace_state": link.trace_state} if link.trace_state else {}))
    return cutter.json(encode(found), array=True)


def _tree(attributes: Sequence[Any]) -> dict[str, Any]:
    return {one.key: value(one.value) for one in attributes}
