"""What goes wrong on purpose in front of the handlers of a mesh under test, and the calls that reached them."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Self, TypeAlias

import grpc

from mesh.context import current

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Continuation: TypeAlias = "Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]]"
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"

# Not the application's, and nobody asks for faults in them.
_OF_EVERY_SERVER = ("/grpc.health.", "/grpc.reflection.")
_CODES: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}


@dataclass(slots=True)
class SeenCall:
    """A call that reached an instance, whatever became of it there."""

    service: str
    instance: str
    # "/shop.v1.Orders/Get".
    method: str
    metadata: tuple[tuple[str, str | bytes], ...]
    correlation_id: str = ""
    trace_id: str = ""
    # None while it is under way. What a fault made of it counts as well.
    code: grpc.StatusCode | None = None
    ended: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(eq=False, slots=True)
class Fault:
    """One thing that goes wrong, until `heal`; `with` heals at its end."""

    # Empty: any. A method is "/shop.v1.Orders/Get", or its end from a slash or a dot on: "Orders/Get", "Get".
    service: str = ""
    instance: str = ""
    method: str = ""
    # What happens: the call waits, then it hangs, or its connection drops, or it fails.
    delay_seconds: float = 0.0
    hangs: bool = False
    drops: bool = False
    code: grpc.StatusCode | None = None
    details: str = ""
    # To so many calls and no more; None is to all. To this share of them, 0 to 1.
    times: int | None = None
    share: float = 1.0
    # How many calls it has happened to.
    hits: int = 0
    healed: bool = False

    def heal(self) -> None:
        """Have it happen no more. Calls that hang go on hanging: their callers may give up on them."""
        self.healed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.heal()

    def strikes(self, service: str, instance: str, method: str) -> bool:
        """Tell whether it happens to this call."""
        if self.healed or self.service not in ("", service) or self.instance not in ("", instance):
            return False
        if self.method and not f"/{method.lstrip('/')}".endswith((f"/{self.method.lstrip('/')}", f".{self.method}")):
            return False
        if self.times is not None and self.hits >= self.times:
            return False
        if self.share < 1 and random.random() >= self.share:  # noqa: S311 - no secret
            return False
        self.hits += 1
        return True


class Faults:
    """All faults of a mesh under test, and all calls that it has seen."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []
        self.seen: list[SeenCall] = []
        self._woken = asyncio.Event()

    def add(self, fault: Fault) -> Fault:
        """Let it happen from now on."""
        self._faults = [one for one in self._faults if not one.healed]
        self._faults.append(fault)
        return fault

    def heal(self) -> None:
        """Heal all."""
        for fault in self._faults:
            fault.heal()
        self._faults.clear()

    def of(self, service: str, instance: str, method: str) -> list[Fault]:
        """Return what happens to a call."""
        return [fault for fault in self._faults if fault.strikes(service, instance, method)]

    def began(self, call: SeenCall) -> None:
        """Take note of a call that came."""
        self.seen.append(call)
        self._wake()

    def ended(self, call: SeenCall) -> None:
        """Take note of a call that ended."""
        call.ended.set()
        self._wake()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until what was seen makes `condition` true."""
        while not condition():
            await self._woken.wait()

    def _wake(self) -> None:
        self._woken.set()
        self._woken = asyncio.Event()


class FaultInterceptor(grpc.aio.ServerInterceptor):
    """Stands in front of the handlers of one instance."""

    def __init__(self, faults: Faults, service: str, instance: str, drop: Callable[[], None]) -> None:
        """Have `drop` reset the instance's connections."""
        self._faults = faults
        self._service = service
        self._instance = instance
        self._drop = drop
        # By method: what the server has, and what stands in its place.
        self._wrapped: dict[str, tuple[Handler, Handler]] = {}

    async def intercept_service(
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> Handler | None:
        """Return the handler with what goes wrong in front of it."""
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None or method.startswith(_OF_EVERY_SERVER):
            return handler
        known = self._wrapped.get(method)
        if known is None or known[0] is not handler:
            known = self._wrapped[method] = (handler, self._wrap(method, handler))
        return known[1]

    def _wrap(self, method: str, handler: Handler) -> Handler:
        sides = (handler.request_streaming, handler.response_streaming)
        kind = "_".join("stream" if streams else "unary" for streams in sides)
        inner: Callable[..., Any] = getattr(handler, kind)

        async def one(request: Any, context: Context) -> Any:
            async with self._watched(method, context):
                await self._strike(method, context)
                return await inner(request, context)

        async def many(request: Any, context: Context) -> AsyncIterator[Any]:
            async with self._watched(method, context):
                await self._strike(method, context)
                async for reply in inner(request, context):
                    yield reply

        make: Callable[..., Handler] = getattr(grpc, f"{kind}_rpc_method_handler")
        return make(
            many if inspect.isasyncgenfunction(inner) else one,
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )

    @contextlib.asynccontextmanager
    async def _watched(self, method: str, context: Context) -> AsyncIterator[None]:
        at = current()
        call = SeenCall(self._service, self._instance, method, tuple(context.invocation_metadata() or ()))
        if at is not None:
            call.correlation_id, call.trace_id = at.correlation_id, at.trace_id
        self._faults.began(call)
        try:
            yield
        except (asyncio.CancelledError, GeneratorExit):
            call.code = grpc.StatusCode.CANCELLED
            raise
        except grpc.aio.AbortError:
            call.code = _code_of(context)
            raise
        except grpc.aio.AioRpcError as error:
            call.code = error.code()
            raise
        except BaseException:
            call.code = grpc.StatusCode.INTERNAL
            raise
        else:
            call.code = _code_of(context)
        finally:
            self._faults.ended(call)

    async def _strike(self, method: str, context: Context) -> None:
        for fault in self._faults.of(self._service, self._instance, method):
            if fault.delay_seconds:
                await asyncio.sleep(fault.delay_seconds)
            if fault.hangs:
                await asyncio.get_running_loop().create_future()
            if fault.drops:
                self._drop()
            if fault.code is not None:
                await context.abort(fault.code, fault.details or f"{self._instance} was told to fail")


def _code_of(context: Context) -> grpc.StatusCode:
    # A number or a member of the enumeration, and 0 where nobody has set one.
    found: Any = context.code()
    return found if isinstance(found, grpc.StatusCode) else _CODES.get(found or 0, grpc.StatusCode.UNKNOWN)
