"""Spans as OpenTelemetry's messages again. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, TracesData
from opentelemetry.proto.trace.v1.trace_pb2 import Span as OtlpSpan

from mesh.api.tracesink.v1 import Span

_RESOURCE = "resource."
_KINDS = ("unspecified", "internal", "server", "client", "producer", "consumer")


def kind_name(kind: int) -> str:
    """Return a span's kind as Jaeger writes it."""
    return _KINDS[kind] if 0 <= kind < len(_KINDS) else _KINDS[0]


def kind_of(name: str) -> int:
    """Return the number of a kind, -1 if it is none."""
    return _KINDS.index(name) if name in _KINDS else -1


def traces_data(spans: Iterable[Span]) -> TracesData:
    """Return spans as one message, by their resources and scopes."""
    data = TracesData()
    resources: dict[tuple[str, ...], ResourceSpans] = {}
    scopes: dict[tuple[str, ...], ScopeSpans] = {}
    for span in spans:
        attributes = _object(span.attributes)
        described = {name: value for name, value in attributes.items() if name.startswith(_RESOURCE)}
        origin = (span.service, span.instance, span.version, json.dumps(described, sort_keys=True))
        if origin not in resources:
            resources[origin] = data.resource_spans.add()
            _describe(resources[origin], span, described)
        if (*origin, span.scope) not in scopes:
            scopes[(*origin, span.scope)] = resources[origin].scope_spans.add()
            scopes[(*origin, span.scope)].scope.name = span.scope
        own = {name: value for name, value in attributes.items() if not name.startswith(_RESOURCE)}
        _add(scopes[(*origin, span.scope)], span, own)
    return data


def _describe(group: ResourceSpans, span: Span, described: Mapping[str, Any]) -> None:
    named = {"service.name": span.service, "service.instance.id": span.instance, "service.version": span.version}
    _put(group.resource.attributes, {name: value for name, value in named.items() if value})
    _put(group.resource.attributes, {name.removeprefix(_RESOURCE): value for name, value in described.items()})


def _add(scoped: ScopeSpans, span: Span, attributes: Mapping[str, Any]) -> None:
    found = scoped.spans.add(
        trace_id=bytes.fromhex(span.trace_id),
        span_id=bytes.fromhex(span.span_id),
        parent_span_id=bytes.fromhex(span.parent_span_id),
        trace_state=span.trace_state,
        name=span.name,
        kind=int(span.kind),
        start_time_unix_nano=max(0, span.start_ns),
        end_time_unix_nano=max(0, span.end_ns),
        flags=span.flags,
        dropped_attributes_count=span.dropped,
    )
    found.status.code = int(span.status)  # type: ignore[assignment]
    found.status.message = span.status_message
    said = {
        "correlation_id": span.correlation_id,
        "rpc.method": span.rpc_method,
        "rpc.status_code": span.rpc_status_code,
        "peer.service": span.peer_service,
    }
    _put(found.attributes, {name: value for name, value in said.items() if value and name not in attributes})
    _put(found.attributes, attributes)
    for event in _array(span.events):
        added = found.events.add(time_unix_nano=_time(event.get("ts_ns")), name=str(event.get("name", "")))
        _put(added.attributes, _members(event))
    for link in _array(span.links):
        _add_link(found, link)


def _add_link(span: OtlpSpan, link: Mapping[str, Any]) -> None:
    try:
        ids = bytes.fromhex(str(link.get("trace_id", ""))), bytes.fromhex(str(link.get("span_id", "")))
    except ValueError:
        return
    added = span.links.add(trace_id=ids[0], span_id=ids[1], trace_state=str(link.get("trace_state", "")))
    _put(added.attributes, _members(link))


def _members(one: Mapping[str, Any]) -> Mapping[str, Any]:
    found = one.get("attributes")
    return found if isinstance(found, dict) else {}


def _time(value: Any) -> int:
    return value if isinstance(value, int) and 0 <= value < 2**64 else 0


def _put(attributes: Any, values: Mapping[str, Any]) -> None:
    for name, value in values.items():
        attributes.add(key=name, value=_value(value))


def _value(value: Any) -> AnyValue:
    if value is None:
        return AnyValue()
    if isinstance(value, bool):
        return AnyValue(bool_value=value)
    if isinstance(value, int):
        return AnyValue(int_value=value) if -(2**63) <= value < 2**63 else AnyValue(string_value=str(value))
    if isinstance(value, float):
        return AnyValue(double_value=value)
    if isinstance(value, str):
        return AnyValue(string_value=value)
    found = AnyValue()
    if isinstance(value, list):
        found.array_value.values.extend(map(_value, value))
    else:
        found.kvlist_value.SetInParent()
        _put(found.kvlist_value.values, value)
    return found


def _object(text: str) -> dict[str, Any]:
    tree = _tree(text or "{}")
    return tree if isinstance(tree, dict) else {}


def _array(text: str) -> list[dict[str, Any]]:
    tree = _tree(text or "[]")
    return [one for one in tree if isinstance(one, dict)] if isinstance(tree, list) else []


def _tree(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
