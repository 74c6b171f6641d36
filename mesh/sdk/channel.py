"""A channel to a service by its name, for generated stubs; it goes to the service's instances directly."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import grpc

from mesh.resilience import outcome
from mesh.resilience.policy import HedgeOptions
from mesh.sdk.metrics import CallMetrics
from mesh.sdk.plan import Plan
from mesh.sdk.refusal import Refused
from mesh.sdk.spans import SpanLog
from mesh.sdk.streams import StreamStreamCall, StreamUnaryCall, UnaryStreamCall
from mesh.sdk.unary import UnaryCall
from mesh.sdk.upstream import Upstream
from mesh.sdk.work import Work

# How long a call without a deadline waits for the first word of a registry.
PATIENCE = 5.0


@dataclass(slots=True)
class Client:
    """What all calls of a process share."""

    spans: SpanLog
    metrics: CallMetrics
    # Monotonic seconds.
    now: Callable[[], float]
    # Where the registry is looked for, to be named when it does not answer.
    control: str


class Method:
    """One method of one stub: what `channel.unary_unary(...)` and its kin return."""

    __slots__ = (
        "_generation",
        "_hedges",
        "_kind",
        "_path",
        "_plan",
        "_serializers",
        "client",
        "name",
        "stats",
        "upstream",
    )

    make: Any

    def __init__(
        self, client: Client, upstream: Upstream, kind: str, path: str, serializers: tuple[Any, Any], hedges: Hedges
    ) -> None:
        self.client = client
        self.upstream = upstream
        self.name = path.lstrip("/")
        self.stats = client.metrics.of(self.name, upstream.name)
        self._kind = kind
        self._path = path
        self._serializers = serializers
        self._hedges = hedges
        self._generation = -1
        self._plan: Plan

    def plan_now(self) -> Plan:
        """Return the plan in force."""
        if self._generation != self.upstream.era.number:
            self._plan = self.upstream.plan(self.name, self._hedges)
            self._generation = self.upstream.era.number
        return self._plan

    def on(self, channel: grpc.aio.Channel) -> Any:
        """Return what calls the method on a channel to one endpoint."""
        serialize, deserialize = self._serializers
        return getattr(channel, self._kind)(self._path, serialize, deserialize)

    async def wait_known(self, work: Work) -> None:
        """Wait until the registry was heard of, and with `wait_for_ready` until an instance serves; raises Refused."""
        upstream, deadline = self.upstream, work.deadline
        patient = bool(work.options.get("wait_for_ready"))
        until = deadline if deadline is not None else (None if patient else work.began + PATIENCE)
        try:
            async with asyncio.timeout(None if until is None else max(0.0, until - self.client.now())):
                while not upstream.known or (patient and not work.plan.targets.willing):
                    await upstream.changed.wait()
                    work.plan = self.plan_now()
        except TimeoutError:
            if deadline is not None and deadline <= self.client.now():
                waited = "the deadline passed before"
                code, reason = outcome.DEADLINE_EXCEEDED, "deadline_exceeded"
            else:
                waited = f"for {PATIENCE:g} s"
                code, reason = outcome.UNAVAILABLE, "no_endpoint"
            if upstream.known:
                raise Refused(reason, code, f"no instance of {upstream.name} has been serving; {waited}") from None
            what = f"no control service has answered at {self.client.control}"
            raise Refused(reason, code, f"it is not known where {upstream.name} is: {what} {waited}".rstrip()) from None
        work.plan = self.plan_now()
        before = work.upstream
        work.take_way()
        before.in_flight -= 1
        work.upstream.in_flight += 1


Hedges = Mapping[str, HedgeOptions]


class _UnaryUnary(Method):
    __slots__ = ()

    def __call__(
        self,
        request: Any,
        *,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: Any = None,
        wait_for_ready: bool | None = None,
        compression: Any = None,
    ) -> UnaryCall:
        return UnaryCall(self, request, timeout, metadata, _options(credentials, wait_for_ready, compression))


class _UnaryStream(Method):
    __slots__ = ()

    def __call__(
        self,
        request: Any,
        *,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: Any = None,
        wait_for_ready: bool | None = None,
        compression: Any = None,
    ) -> UnaryStreamCall:
        return UnaryStreamCall(self, request, timeout, metadata, _options(credentials, wait_for_ready, compression))


class _StreamUnary(Method):
    __slots__ = ()

    def __call__(
        self,
        request_iterator: Any = None,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: Any = None,
        wait_for_ready: bool | None = None,  # noqa: FBT001 - grpc's
        compression: Any = None,
    ) -> StreamUnaryCall:
        options = _options(credentials, wait_for_ready, compression)
        return StreamUnaryCall(self, request_iterator, timeout, metadata, options)


class _StreamStream(Method):
    __slots__ = ()

    def __call__(
        self,
        request_iterator: Any = None,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: Any = None,
        wait_for_ready: bool | None = None,  # noqa: FBT001 - grpc's
        compression: Any = None,
    ) -> StreamStreamCall:
        options = _options(credentials, wait_for_ready, compression)
        return StreamStreamCall(self, request_iterator, timeout, metadata, options)


_NO_OPTIONS: dict[str, Any] = {}


def _options(credentials: Any, wait_for_ready: bool | None, compression: Any) -> dict[str, Any]:  # noqa: FBT001
    if credentials is None and wait_for_ready is None and compression is None:
        return _NO_OPTIONS
    return {"credentials": credentials, "wait_for_ready": wait_for_ready, "compression": compression}


class MeshChannel(grpc.aio.Channel):
    """What `m.channel("payments")` gives. It needs no closing: the connections belong to the mesh."""

    def __init__(self, client: Client, upstream: Upstream, hedges: Hedges) -> None:
        self._client = client
        self._upstream = upstream
        self._hedges = hedges

    async def __aenter__(self) -> MeshChannel:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def close(self, grace: float | None = None) -> None:
        """Do nothing: others may call the same service."""

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:  # noqa: FBT001, FBT002 - grpc's
        """Tell READY where an instance takes calls, and TRANSIENT_FAILURE where none does."""
        ready = any(one.instance.weight for one in self._upstream.endpoints)
        return grpc.ChannelConnectivity.READY if ready else grpc.ChannelConnectivity.TRANSIENT_FAILURE

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """Wait until `get_state` says something else."""
        while self.get_state() is last_observed_state:
            await self._upstream.changed.wait()

    async def channel_ready(self) -> None:
        """Wait until an instance takes calls."""
        while self.get_state() is not grpc.ChannelConnectivity.READY:
            await self._upstream.changed.wait()

    def unary_unary(
        self, method: str, request_serializer: Any = None, response_deserializer: Any = None, **_: Any
    ) -> Any:
        return self._method(_UnaryUnary, "unary_unary", method, request_serializer, response_deserializer)

    def unary_stream(
        self, method: str, request_serializer: Any = None, response_deserializer: Any = None, **_: Any
    ) -> Any:
        return self._method(_UnaryStream, "unary_stream", method, request_serializer, response_deserializer)

    def stream_unary(
        self, method: str, request_serializer: Any = None, response_deserializer: Any = None, **_: Any
    ) -> Any:
        return self._method(_StreamUnary, "stream_unary", method, request_serializer, response_deserializer)

    def stream_stream(
        self, method: str, request_serializer: Any = None, response_deserializer: Any = None, **_: Any
    ) -> Any:
        return self._method(_StreamStream, "stream_stream", method, request_serializer, response_deserializer)

    def _method(self, make: type[Method], kind: str, path: str, serialize: Any, deserialize: Any) -> Method:
        return make(self._client, self._upstream, kind, path, (serialize, deserialize), self._hedges)
