"""Spans: OpenTelemetry's data model, with the correlation id and what is asked for most. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from json.encoder import encode_basestring
from typing import Any, NamedTuple

from mesh.api.logsink.v1 import TextColumn
from mesh.api.tracesink.v1 import SpanBatch
from mesh.telemetry.record import attributes_text, column, safe

# Kinds and statuses have OpenTelemetry's numbers.
INTERNAL, SERVER, CLIENT, PRODUCER, CONSUMER = 1, 2, 3, 4, 5
UNSET, OK, ERROR = 0, 1, 2

# Of a trace's flags: it was decided at its begin that it is kept.
SAMPLED = 1

# What one span may have; the rest is left out and counted in `dropped`.
MAX_EVENTS = 128
MAX_LINKS = 128
# Characters of a status' message, and of one event's or link's attributes.
MAX_MESSAGE = 4096
MAX_ATTRIBUTES = 8192
# Of all events, or all links, of one span: the sink takes 1 MiB of them, and a character has up to 4 bytes.
MAX_CHARACTERS = (1 << 18) - 2

_NOTHING: Mapping[str, Any] = {}


class SpanEvent(NamedTuple):
    """Something that happened at one moment of a span."""

    ts_ns: int
    name: str
    attributes: Mapping[str, Any] = _NOTHING


class SpanLink(NamedTuple):
    """Another span that this one has to do with, such as the one that sent the message that is worked on here."""

    trace_id: str
    span_id: str
    trace_state: str = ""
    attributes: Mapping[str, Any] = _NOTHING


@dataclass(slots=True)
class SpanRecord:
    """One span. Times are nanoseconds since 1970; ids are hexadecimal digits in small letters; "" is unknown."""

    # 32 and 16 digits.
    trace_id: str
    span_id: str
    # The full name of the method, such as shop.v1.Orders/Get, where it is a call.
    name: str
    start_ns: int
    end_ns: int
    kind: int = INTERNAL
    # "" for the first span of its trace.
    parent_span_id: str = ""
    status: int = UNSET
    status_message: str = ""
    service: str = ""
    instance: str = ""
    version: str = ""
    scope: str = ""
    # "" is the trace id.
    correlation_id: str = ""
    # Of calls alone: "shop.v1.Orders/Get", "UNAVAILABLE".
    rpc_method: str = ""
    rpc_status_code: str = ""
    # The service that was called.
    peer_service: str = ""
    trace_state: str = ""
    flags: int = SAMPLED
    attributes: Mapping[str, Any] = field(default_factory=dict)
    events: Sequence[SpanEvent] = ()
    links: Sequence[SpanLink] = ()
    # Attributes, events and links that were left out already.
    dropped: int = 0


def to_span_batch(spans: Sequence[SpanRecord]) -> SpanBatch:
    """Return the spans as the columns that the sink takes. Texts that repeat are written once."""
    events = [_fitting(map(_event, span.events[:MAX_EVENTS])) for span in spans]
    links = [_fitting(map(_link, span.links[:MAX_LINKS])) for span in spans]
    return SpanBatch(
        start_ns=[span.start_ns for span in spans],
        end_ns=[span.end_ns for span in spans],
        trace_id=column([span.trace_id for span in spans]),
        span_id=TextColumn(values=[safe(span.span_id) for span in spans]),
        parent_span_id=column([span.parent_span_id for span in spans]),
        name=column([span.name for span in spans]),
        kind=[span.kind for span in spans],
        status=[span.status for span in spans],
        status_message=column([span.status_message[:MAX_MESSAGE] for span in spans]),
        service=column([span.service for span in spans]),
        instance=column([span.instance for span in spans]),
        version=column([span.version for span in spans]),
        scope=column([span.scope for span in spans]),
        correlation_id=column([span.correlation_id for span in spans]),
        rpc_method=column([span.rpc_method for span in spans]),
        rpc_status_code=column([span.rpc_status_code for span in spans]),
        peer_service=column([span.peer_service for span in spans]),
        trace_state=column([span.trace_state for span in spans]),
        flags=[span.flags for span in spans],
        attributes=column(_attribute_texts(spans)),
        events=column([_array(kept) for kept in events]),
        links=column([_array(kept) for kept in links]),
        dropped=[
            span.dropped + len(span.events) - len(own_events) + len(span.links) - len(own_links)
            for span, own_events, own_links in zip(spans, events, links, strict=True)
        ],
    )


def _attribute_texts(spans: Sequence[SpanRecord]) -> list[str]:
    """Return the attributes of each as text; those that several share are encoded once."""
    known: dict[int, str] = {}
    texts = []
    for span in spans:
        found = known.get(id(span.attributes))
        if found is None:
            found = known[id(span.attributes)] = attributes_text(span.attributes)
        texts.append(found)
    return texts


def events_text(events: Sequence[SpanEvent]) -> str:
    """Return events as a JSON array, as many as fit; "" for none."""
    return _array(_fitting(map(_event, events)))


def _event(event: SpanEvent) -> str:
    return f'{{"ts_ns":{event.ts_ns},"name":{_quoted(event.name)},"attributes":{_attributes(event.attributes)}}}'


def _link(link: SpanLink) -> str:
    return (
        f'{{"trace_id":{_quoted(link.trace_id)},"span_id":{_quoted(link.span_id)},'
        f'"trace_state":{_quoted(link.trace_state)},"attributes":{_attributes(link.attributes)}}}'
    )


def _fitting(texts: Iterable[str]) -> list[str]:
    """Return the first of the texts, as many as the sink takes of one span."""
    found, room = [], MAX_CHARACTERS
    for text in texts:
        room -= len(text) + 1
        if room < 0:
            break
        found.append(text)
    return found


def _array(texts: Sequence[str]) -> str:
    return f"[{','.join(texts)}]" if texts else ""


def _attributes(attributes: Mapping[str, Any]) -> str:
    text = attributes_text(attributes)
    return text if len(text) <= MAX_ATTRIBUTES else f'{{"mesh.cut_characters":{len(text)}}}'


def _quoted(text: str) -> str:
    return encode_basestring(safe(text[:MAX_MESSAGE]))
