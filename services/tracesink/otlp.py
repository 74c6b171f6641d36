"""OpenTelemetry's spans as rows. Decides, and does no I/O.

As with logs, what a resource says of itself goes into each span's attributes, with "resource." before its name.
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
from services.tracesink.semantics import CORRELATION, ROLES, Roles

_members = Members(ROLES, passing=(CORRELATION,))
_NO_IDS = (bytes(16), bytes(8))
_NO_STATUS = (0, "")
_NO_ROLES = ("", "", "", "")


class Rows:
    """Rows as columns while they are gathered."""

    def __init__(self) -> None:
        self.texts: dict[str, list[str]] = {
            name: []
            for name in (
                *("trace_id", "span_id", "parent_span_id", "name", "trace_state", "status_message"),
                *("correlation_id", "rpc_method", "rpc_status_code", "peer_service", "attributes", "events", "links"),
            )
        }
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
        for name in ("name", "rpc_method", "rpc_status_code", "peer_service", "status_message", "events", "links"):
            texts[name] = texts[name].dictionary_encode()
        return finished(
            {
                **same,
                **texts,
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
        said = Roles()
        for name, found in resource.items():
            if ROLES.get(name) == CORRELATION:
                said.add(CORRELATION, found)
        common = encode({f"resource.{name}": found for name, found in resource.items()})[1:-1]
        for scoped in group.scope_spans:
            # A list: each pass over the field itself would make its objects anew.
            spans = list(scoped.spans)
            good = [span for span in spans if _has_ids(span)]
            rows.rejected += len(spans) - len(good)
            _add(rows, good, common, said.correlation)
            rows.origins.append(((named[0], named[1], named[2], label(scoped.scope.name)), len(good)))
    return rows


def _has_ids(span: Any) -> bool:
    trace_id, span_id = span.trace_id, span.span_id
    return (
        len(trace_id) == 16
        and len(span_id) == 8
        and len(span.parent_span_id) in (0, 8)
        and trace_id != _NO_IDS[0]
        and span_id != _NO_IDS[1]
    )


def _add(rows: Rows, spans: Sequence[Any], common: str, correlation: str) -> None:
    texts = rows.texts
    rows.start += [span.start_time_unix_nano for span in spans]
    rows.end += [span.end_time_unix_nano for span in spans]
    rows.kind += [span.kind for span in spans]
    rows.flags += [span.flags for span in spans]
    rows.dropped += [
        span.dropped_attributes_count + span.dropped_events_count + span.dropped_links_count for span in spans
    ]
    texts["trace_id"] += [span.trace_id.hex() for span in spans]
    texts["span_id"] += [span.span_id.hex() for span in spans]
    none = _NO_IDS[1]
    texts["parent_span_id"] += ["" if (parent := span.parent_span_id) == none else parent.hex() for span in spans]
    fitting = rows.cutter.text
    texts["name"] += [fitting(span.name, MAX_NAME) for span in spans]
    texts["trace_state"] += [fitting(span.trace_state, MAX_NAME) for span in spans]
    states = [_status(data, fitting) if (data := span.status) else _NO_STATUS for span in spans]
    rows.status += [code for code, _ in states]
    texts["status_message"] += [message for _, message in states]
    texts["events"] += [_events(rows.cutter, events) if (events := span.events) else "[]" for span in spans]
    texts["links"] += [_links(rows.cutter, links) if (links := span.links) else "[]" for span in spans]
    _add_attributes(rows, spans, common, correlation)


def _add_attributes(rows: Rows, spans: Sequence[Any], common: str, correlation: str) -> None:
    before = f"{common}," if common else ""
    known, add = _members.known, _members.add
    attributes, ids = rows.texts["attributes"], rows.texts["correlation_id"]
    methods, codes, peers = (rows.texts[name] for name in ("rpc_method", "rpc_status_code", "peer_service"))
    for span in spans:
        members, roles = [], None
        for data in span.attributes:
            member, role, said = known.get(data) or add(data)
            members.append(member)
            if role:
                if roles is None:
                    roles = Roles()
                roles.add(role, said)
        text = f"{{{before}{','.join(members)}}}" if members else f"{{{common}}}"
        attributes.append(text if len(text) <= MAX_TEXT // 4 else rows.cutter.json(text))
        cid, method, code, peer = roles.found() if roles is not None else _NO_ROLES
        ids.append(cid or correlation)
        methods.append(method)
        codes.append(code)
        peers.append(peer)


def _status(data: bytes, fitting: Any) -> tuple[int, str]:
    status = Status.FromString(data)
    return min(max(status.code, 0), MAX_STATUS), fitting(status.message, MAX_NAME)


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
