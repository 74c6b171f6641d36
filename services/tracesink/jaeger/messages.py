"""`jaeger.api_v3` with Jaeger's names and field numbers, as far as it is served.

Made here and not from a proto, because its replies are messages of OpenTelemetry, whose protos their package does not
bring along. So reflection shows them as well.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, duration_pb2, message_factory, timestamp_pb2
from opentelemetry.proto.trace.v1 import trace_pb2

PACKAGE = "jaeger.api_v3"

_Field = descriptor_pb2.FieldDescriptorProto
_TIME, _DURATION = ".google.protobuf.Timestamp", ".google.protobuf.Duration"
_TRACES = ".opentelemetry.proto.trace.v1.TracesData"
_TYPES = {
    "string": _Field.TYPE_STRING,
    "bool": _Field.TYPE_BOOL,
    "int32": _Field.TYPE_INT32,
    "uint64": _Field.TYPE_UINT64,
    "fixed64": _Field.TYPE_FIXED64,
}
_REPEATED = "repeated "

# Fields in the order of their numbers, from 1 on: name and type.
_MESSAGES: dict[str, list[tuple[str, str]]] = {
    "GetTraceRequest": [("trace_id", "string"), ("start_time", _TIME), ("end_time", _TIME), ("raw_traces", "bool")],
    "TraceQueryParameters": [
        ("service_name", "string"),
        ("operation_name", "string"),
        ("attributes", f"{_REPEATED}.{PACKAGE}.TraceQueryParameters.AttributesEntry"),
        ("start_time_min", _TIME),
        ("start_time_max", _TIME),
        ("duration_min", _DURATION),
        ("duration_max", _DURATION),
        ("search_depth", "int32"),
        ("raw_traces", "bool"),
    ],
    "FindTracesRequest": [("query", f".{PACKAGE}.TraceQueryParameters")],
    "GetServicesRequest": [],
    "GetServicesResponse": [("services", f"{_REPEATED}string")],
    "GetOperationsRequest": [("service", "string"), ("span_kind", "string")],
    "Operation": [("name", "string"), ("span_kind", "string")],
    "GetOperationsResponse": [("operations", f"{_REPEATED}.{PACKAGE}.Operation")],
    "GetDependenciesRequest": [("start_time", _TIME), ("end_time", _TIME)],
    "Dependency": [("parent", "string"), ("child", "string"), ("call_count", "uint64")],
    "DependenciesResponse": [("dependencies", f"{_REPEATED}.{PACKAGE}.Dependency")],
    "ServiceSummary": [("name", "string"), ("span_count", "int32"), ("error_span_count", "int32")],
    "TraceSummary": [
        ("trace_id", "string"),
        ("root_service_name", "string"),
        ("root_operation_name", "string"),
        ("min_start_time_unix_nano", "fixed64"),
        ("max_end_time_unix_nano", "fixed64"),
        ("span_count", "int32"),
        ("error_span_count", "int32"),
        ("orphan_span_count", "int32"),
        ("services", f"{_REPEATED}.{PACKAGE}.ServiceSummary"),
    ],
    "FindTraceSummariesRequest": [("query", f".{PACKAGE}.TraceQueryParameters")],
    "FindTraceSummariesResponse": [("summaries", f"{_REPEATED}.{PACKAGE}.TraceSummary")],
}
# Name, request, reply, and whether there may be several of the latter.
_METHODS = (
    ("GetTrace", "GetTraceRequest", _TRACES, True),
    ("FindTraces", "FindTracesRequest", _TRACES, True),
    ("GetServices", "GetServicesRequest", f".{PACKAGE}.GetServicesResponse", False),
    ("GetOperations", "GetOperationsRequest", f".{PACKAGE}.GetOperationsResponse", False),
    ("GetDependencies", "GetDependenciesRequest", f".{PACKAGE}.DependenciesResponse", False),
    ("FindTraceSummaries", "FindTraceSummariesRequest", f".{PACKAGE}.FindTraceSummariesResponse", True),
)


def _file() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(
        name="mesh/jaeger/api_v3/query_service.proto",
        package=PACKAGE,
        syntax="proto3",
        dependency=[module.DESCRIPTOR.name for module in (trace_pb2, timestamp_pb2, duration_pb2)],
    )
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for number, (field, kind) in enumerate(fields, 1):
            _add_field(message, field, number, kind)
    (query,) = (message for message in file.message_type if message.name == "TraceQueryParameters")
    entry = query.nested_type.add(name="AttributesEntry")
    entry.options.map_entry = True
    _add_field(entry, "key", 1, "string")
    _add_field(entry, "value", 2, "string")
    service = file.service.add(name="QueryService")
    for name, request, reply, several in _METHODS:
        service.method.add(name=name, input_type=f".{PACKAGE}.{request}", output_type=reply, server_streaming=several)
    return file


def _add_field(message: descriptor_pb2.DescriptorProto, name: str, number: int, kind: str) -> None:
    field = message.field.add(name=name, number=number, label=_Field.LABEL_OPTIONAL)
    if kind.startswith(_REPEATED):
        field.label, kind = _Field.LABEL_REPEATED, kind.removeprefix(_REPEATED)
    if kind.startswith("."):
        field.type, field.type_name = _Field.TYPE_MESSAGE, kind
    else:
        field.type = _TYPES[kind]


_pool = descriptor_pool.Default()
_pool.AddSerializedFile(_file().SerializeToString())


def _class(name: str) -> Any:
    return message_factory.GetMessageClass(_pool.FindMessageTypeByName(f"{PACKAGE}.{name}"))


GetTraceRequest = _class("GetTraceRequest")
TraceQueryParameters = _class("TraceQueryParameters")
FindTracesRequest = _class("FindTracesRequest")
GetServicesRequest = _class("GetServicesRequest")
GetServicesResponse = _class("GetServicesResponse")
GetOperationsRequest = _class("GetOperationsRequest")
Operation = _class("Operation")
GetOperationsResponse = _class("GetOperationsResponse")
GetDependenciesRequest = _class("GetDependenciesRequest")
Dependency = _class("Dependency")
DependenciesResponse = _class("DependenciesResponse")
ServiceSummary = _class("ServiceSummary")
TraceSummary = _class("TraceSummary")
FindTraceSummariesRequest = _class("FindTraceSummariesRequest")
FindTraceSummariesResponse = _class("FindTraceSummariesResponse")
