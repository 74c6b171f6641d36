"""Reflection of everything behind the edge, as if it were one server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any

import grpc
from google.protobuf import descriptor_pool
from grpc_reflection.v1alpha import reflection_pb2 as messages

from proxy.admin.descriptors import METHODS, DescriptorCache, File, Files
from proxy.admin.prune import prune
from proxy.admin.state import MeshState
from proxy.engines.engine import PUBLIC

NAMES = tuple(method.split("/")[1] for method in METHODS)
_V1 = NAMES[0]

_MAX_TEXT = 256
_MAX_REQUESTS = 1000


class Reflection:
    """Answers reflection for one listener: what its routes show, and on the public one only what they need.

    Each stream remembers which service it asked about last and looks there first: two services may have different
    files of the same name.
    """

    def __init__(self, state: MeshState, listener: str, cache: DescriptorCache) -> None:
        self._state = state
        self._listener = listener
        self._cache = cache

    async def serve(
        self, requests: AsyncIterator[Any], context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[Any]:
        """Answer the questions of one stream, in order."""
        recent: list[str] = []
        count = 0
        async for request in requests:
            count += 1
            if count > _MAX_REQUESTS:
                await context.abort(
                    grpc.StatusCode.RESOURCE_EXHAUSTED, f"a stream may ask {_MAX_REQUESTS} times: open another one"
                )
            response = await self._answer(request, recent)
            response.valid_host = request.host
            response.original_request.CopyFrom(request)
            yield response

    async def _answer(self, request: Any, recent: list[str]) -> Any:
        kind = request.WhichOneof("message_request")
        if kind == "list_services":
            names = sorted(self._state.table(self._listener).routes)
            services = [messages.ServiceResponse(name=name) for name in names]
            return messages.ServerReflectionResponse(
                list_services_response=messages.ListServiceResponse(service=services)
            )
        if kind == "file_containing_symbol":
            found = await self._symbol(request.file_containing_symbol, recent)
            return _files(found) if found else _not_found("symbol", request.file_containing_symbol)
        if kind == "file_by_filename":
            found = await self._file(request.file_by_filename, recent)
            return _files(found) if found else _not_found("file", request.file_by_filename)
        if kind == "all_extension_numbers_of_type":
            return _not_found("extensions of", request.all_extension_numbers_of_type)
        if kind == "file_containing_extension":
            return _not_found("extension of", request.file_containing_extension.containing_type)
        return _error(grpc.StatusCode.INVALID_ARGUMENT, "the request asks nothing")

    async def _symbol(self, symbol: str, recent: list[str]) -> list[File]:
        routes = self._state.table(self._listener).routes
        # A service, or a method of one, names its service; a type may be anybody's.
        for name in (symbol, symbol.rpartition(".")[0]):
            if name in routes:
                files = await self._files_of(name)
                at = _declaring(files, symbol)
                if at:
                    _remember(recent, name)
                    return _closure(files, at)
        for name in (*reversed(recent), *(name for name in sorted(routes) if name not in recent)):
            files = await self._files_of(name)
            at = _declaring(files, symbol)
            if at:
                _remember(recent, name)
                return _closure(files, at)
        return []

    async def _file(self, filename: str, recent: list[str]) -> list[File]:
        routes = self._state.table(self._listener).routes
        for name in (*reversed(recent), *(name for name in sorted(routes) if name not in recent)):
            files = await self._files_of(name)
            if filename in files:
                return _closure(files, filename)
        return []

    async def _files_of(self, grpc_service: str) -> Files:
        route = self._state.table(self._listener).routes.get(grpc_service)
        if route is None:
            return {}
        if route.is_local:
            files = _local_files(grpc_service)
        else:
            files = await self._cache.files(grpc_service, route.targets.known)
        return prune(files, {grpc_service}) if self._listener == PUBLIC else files


def add_reflection(server: grpc.aio.Server, reflection: Reflection) -> None:
    """Serve reflection, v1 and v1alpha, on a listener."""
    for name in NAMES:
        handler = grpc.stream_stream_rpc_method_handler(
            reflection.serve,
            request_deserializer=messages.ServerReflectionRequest.FromString,
            response_serializer=messages.ServerReflectionResponse.SerializeToString,
        )
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(name, {"ServerReflectionInfo": handler}),)
        )


def _local_files(grpc_service: str) -> Files:
    """Return the files of a service that is linked into this process."""
    pool = descriptor_pool.Default()
    if grpc_service == _V1:
        return {file.name: file for file in (_reflection_v1(),)}
    try:
        waiting = [pool.FindFileContainingSymbol(grpc_service)]
    except KeyError:
        return {}
    found: Files = {}
    while waiting:
        descriptor = waiting.pop()
        if descriptor.name not in found:
            file = File()
            descriptor.CopyToProto(file)
            found[file.name] = file
            waiting += descriptor.dependencies
    return found


def _reflection_v1() -> File:
    """Return the file of reflection v1, which no package brings, from its twin v1alpha."""
    file = File()
    messages.DESCRIPTOR.CopyToProto(file)
    file.name, file.package = "grpc/reflection/v1/reflection.proto", "grpc.reflection.v1"
    _rename(file)
    return file


def _rename(file: File) -> None:
    old, new = ".grpc.reflection.v1alpha.", ".grpc.reflection.v1."
    for message in file.message_type:
        for field in message.field:
            field.type_name = field.type_name.replace(old, new)
    for service in file.service:
        for method in service.method:
            method.input_type = method.input_type.replace(old, new)
            method.output_type = method.output_type.replace(old, new)


def _declaring(files: Mapping[str, File], symbol: str) -> str:
    """Return the name of the file that declares `symbol`, "" when none does."""
    for name, file in files.items():
        prefix = f"{file.package}." if file.package else ""
        if symbol.startswith(prefix) and _declares(file, symbol.removeprefix(prefix).split(".")):
            return name
    return ""


def _declares(file: File, path: list[str]) -> bool:
    for service in file.service:
        if service.name == path[0]:
            return len(path) == 1 or (len(path) == 2 and any(one.name == path[1] for one in service.method))
    return _declares_type((*file.message_type, *file.enum_type), path)


def _declares_type(types: Any, path: list[str]) -> bool:
    for one in types:
        if one.name == path[0]:
            if len(path) == 1:
                return True
            nested = (*getattr(one, "nested_type", ()), *getattr(one, "enum_type", ()))
            fields = getattr(one, "field", ())
            return _declares_type(nested, path[1:]) or (
                len(path) == 2 and any(field.name == path[1] for field in fields)
            )
    return False


def _closure(files: Mapping[str, File], first: str) -> list[File]:
    """Return a file and all that it imports, itself first."""
    order = [first]
    for name in order:
        order += [one for one in files[name].dependency if one in files and one not in order]
    return [files[name] for name in order]


def _remember(recent: list[str], name: str) -> None:
    if name in recent:
        recent.remove(name)
    recent.append(name)
    del recent[:-10]


def _files(found: list[File]) -> Any:
    return messages.ServerReflectionResponse(
        file_descriptor_response=messages.FileDescriptorResponse(
            file_descriptor_proto=[file.SerializeToString() for file in found]
        )
    )


def _not_found(what: str, name: str) -> Any:
    return _error(
        grpc.StatusCode.NOT_FOUND,
        f"no {what} {name[:_MAX_TEXT]} behind this edge, or the instances that have it offer no reflection",
    )


def _error(code: grpc.StatusCode, message: str) -> Any:
    return messages.ServerReflectionResponse(
        error_response=messages.ErrorResponse(error_code=code.value[0], error_message=message)
    )
