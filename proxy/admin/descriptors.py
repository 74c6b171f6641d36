"""Asks instances by reflection for the files that describe their services, and remembers the answers."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import grpc
from google.protobuf import descriptor_pb2
from grpc_reflection.v1alpha import reflection_pb2 as messages

from proxy.upstream.endpoint import Endpoint

File = descriptor_pb2.FileDescriptorProto
Files = dict[str, File]

# v1 and v1alpha have the same messages under two names.
METHODS = (
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
)

# An instance that describes itself with more than this is left out: files are kept in memory.
MAX_FILES = 500
MAX_BYTES = 8 * 1024 * 1024
ANSWER_SECONDS = 10.0
# How many services' files are remembered.
_KEPT = 256

GetChannel = Callable[[Endpoint], grpc.aio.Channel]


class DescriptorCache:
    """The files of every gRPC service, fetched from one of its instances when first asked for."""

    def __init__(self, open_channel: GetChannel) -> None:
        self._open = open_channel
        self._files: OrderedDict[tuple[str, str, int], Files] = OrderedDict()
        self._fetching: dict[tuple[str, str, int], asyncio.Future[Files]] = {}

    async def files(self, grpc_service: str, endpoints: Sequence[Endpoint]) -> Files:
        """Return the file that declares a gRPC service and all it imports, by name; empty when no one tells.

        An answer serves until its instance registers anew, as a new version may bring new files.
        """
        keys = [(grpc_service, one.instance_id, one.instance.create_revision) for one in endpoints]
        for key in keys:
            if key in self._files:
                self._files.move_to_end(key)
                return self._files[key]
        for key, endpoint in zip(keys, endpoints, strict=True):
            files = await self._fetch_once(key, endpoint)
            if files:
                self._files[key] = files
                while len(self._files) > _KEPT:
                    self._files.popitem(last=False)
                return files
        return {}

    async def _fetch_once(self, key: tuple[str, str, int], endpoint: Endpoint) -> Files:
        """Fetch, or wait for whoever fetches the same already."""
        under_way = self._fetching.get(key)
        if under_way is not None:
            return await asyncio.shield(under_way)
        future: asyncio.Future[Files] = asyncio.get_running_loop().create_future()
        self._fetching[key] = future
        files: Files = {}
        try:
            files = await fetch(self._open(endpoint), key[0])
        finally:
            del self._fetching[key]
            future.set_result(files)
        return files


async def fetch(channel: grpc.aio.Channel, symbol: str) -> Files:
    """Return the file that declares `symbol` and its imports, by an instance's reflection; empty on any failure."""
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            for method in METHODS:
                try:
                    return await _ask(channel, method, symbol)
                except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
                    # Most likely UNIMPLEMENTED; but a write that crosses such an answer makes grpc.aio tell INTERNAL.
                    continue
    except (TimeoutError, ValueError):
        pass
    return {}


async def _ask(channel: grpc.aio.Channel, method: str, symbol: str) -> Files:
    async def converse(question: Any) -> Sequence[bytes]:
        await stream.write(question)
        answer = await stream.read()
        if answer is grpc.aio.EOF:
            raise ValueError("reflection ended early")
        return list(answer.file_descriptor_response.file_descriptor_proto)

    call: Any = channel.stream_stream(
        method,
        request_serializer=messages.ServerReflectionRequest.SerializeToString,
        response_deserializer=messages.ServerReflectionResponse.FromString,
    )
    stream = call()
    try:
        found: Files = {}
        _add(found, await converse(messages.ServerReflectionRequest(file_containing_symbol=symbol)))
        while missing := _missing(found):
            before = len(found)
            for name in missing:
                _add(found, await converse(messages.ServerReflectionRequest(file_by_filename=name)))
            if len(found) == before:
                raise ValueError("reflection knows too little")
        return found
    finally:
        stream.cancel()


def _add(found: Files, raw: Sequence[bytes]) -> None:
    for one in raw:
        file = File.FromString(one)
        found[file.name] = file
    if len(found) > MAX_FILES or sum(file.ByteSize() for file in found.values()) > MAX_BYTES:
        raise ValueError("reflection is too large")


def _missing(found: Files) -> list[str]:
    return sorted({name for file in found.values() for name in file.dependency} - found.keys())
