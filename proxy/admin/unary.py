"""Learns which methods are unary: by what instances were registered with, else by asking them (reflection)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import grpc

from proxy.admin.descriptors import Files, fetch
from proxy.admin.state import MeshState
from proxy.engines.aio.claims import UnaryClaims
from proxy.engines.engine import INTERNAL
from proxy.upstream.endpoint import Endpoint

# What is learned is bounded, as instances may say what they like.
MAX_SERVICES = 500
MAX_METHODS = 200
# Instances that are asked at a time, and of one service before it counts as silent for a while.
_AT_ONCE = 16
_TRIED = 3
SILENT_SECONDS = 60.0

# Metadata of an instance that has no reflection: "SERVICE/METHOD", several with commas between.
UNARY_METHODS = "unary-methods"

Instance = tuple[str, str, int]


@dataclass
class UnaryLearner:
    """Asks one instance of each gRPC service, and again when that one is gone or has registered anew."""

    state: MeshState
    open_channel: Callable[[Endpoint], grpc.aio.Channel]
    claims: UnaryClaims
    # By gRPC service: who said so, and the paths of its unary methods.
    _known: dict[str, tuple[Instance, frozenset[bytes]]] = field(default_factory=dict)
    # Services whose instances do not tell, until when they are left alone.
    _silent: dict[str, float] = field(default_factory=dict)

    async def run(self) -> None:
        """Follow the registry until cancelled."""
        while True:
            changed = self.state.next_change()
            await self._learn()
            try:
                async with asyncio.timeout(SILENT_SECONDS if self._silent else None):
                    await changed.wait()
            except TimeoutError:
                continue

    async def _learn(self) -> None:
        routes = self.state.table(INTERNAL).routes
        asked = {name: route.targets.endpoints for name, route in routes.items() if not route.is_local}
        self._forget(asked)
        for name, endpoints in asked.items():
            for endpoint in endpoints:
                if name not in self._known and (methods := told(endpoint, name)):
                    self._learnt(name, endpoint, methods)
        now = asyncio.get_running_loop().time()
        questions = [name for name in asked if name not in self._known and self._silent.get(name, 0) <= now]
        room = MAX_SERVICES - len(self._known)
        turns = asyncio.Semaphore(_AT_ONCE)

        async def learn(name: str) -> None:
            async with turns:
                await self._ask(name, asked[name][:_TRIED])

        async with asyncio.TaskGroup() as group:
            for name in sorted(questions)[:room]:
                group.create_task(learn(name))

    async def _ask(self, name: str, endpoints: Sequence[Endpoint]) -> None:
        for endpoint in endpoints:
            files = await fetch(self.open_channel(endpoint), name)
            if files:
                self._learnt(name, endpoint, unary_methods(files, name))
                return
        self._silent[name] = asyncio.get_running_loop().time() + SILENT_SECONDS

    def _learnt(self, name: str, endpoint: Endpoint, methods: frozenset[bytes]) -> None:
        self._known[name] = (_who(endpoint), methods)
        self._silent.pop(name, None)
        self._publish()

    def _forget(self, asked: Mapping[str, Sequence[Endpoint]]) -> None:
        """Drop what nobody who lives has said."""
        known = {
            name: answer
            for name, answer in self._known.items()
            if answer[0] in [_who(endpoint) for endpoint in asked.get(name, ())]
        }
        self._silent = {name: until for name, until in self._silent.items() if name in asked}
        if known != self._known:
            self._known = known
            self._publish()

    def _publish(self) -> None:
        self.claims.replace(method for _, methods in self._known.values() for method in methods)


def unary_methods(files: Files, grpc_service: str) -> frozenset[bytes]:
    """Return the paths of a service's methods that take one message and give one."""
    found = []
    for file in files.values():
        prefix = f"{file.package}." if file.package else ""
        for service in file.service:
            if f"{prefix}{service.name}" == grpc_service:
                found += [one.name for one in service.method if not one.client_streaming and not one.server_streaming]
    return frozenset(f"/{grpc_service}/{name}".encode() for name in found[:MAX_METHODS])


def told(endpoint: Endpoint, grpc_service: str) -> frozenset[bytes]:
    """Return the paths of a service's unary methods by the metadata that an instance was registered with."""
    said = [one.strip() for one in endpoint.instance.metadata.get(UNARY_METHODS, "").split(",")]
    return frozenset(f"/{one}".encode() for one in said if one.startswith(f"{grpc_service}/"))


def _who(endpoint: Endpoint) -> Instance:
    return endpoint.service, endpoint.instance_id, endpoint.instance.create_revision
