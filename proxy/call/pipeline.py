"""The interceptors of a route, compiled once so that a call pays only for the hooks that exist."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from proxy.call.call import Call
from proxy.call.interceptor import Interceptor

if TYPE_CHECKING:
    from proxy.upstream.endpoint import Endpoint

HookError = Callable[[Call, BaseException], None]


class Pipeline:
    """An ordered list of interceptors, compiled into one tuple of functions per hook.

    An error in a hook of the way out is handed to `on_error` and does not reach the call: a broken observer must
    neither fail a call nor keep the other observers from its end.
    """

    __slots__ = ("_admits", "_attempt_end", "_end", "_on_error", "_request", "_response", "is_async", "names")

    def __init__(self, interceptors: Sequence[Interceptor], on_error: HookError) -> None:
        self.names = tuple(interceptor.name or type(interceptor).__name__ for interceptor in interceptors)
        self._request = _hooks(interceptors, "on_request")
        admits = _hooks(interceptors, "admits")
        self._response = _hooks(interceptors[::-1], "on_response")
        self._attempt_end = _hooks(interceptors[::-1], "on_attempt_end")
        self._end = _hooks(interceptors[::-1], "on_end")
        if len(admits) > 1:
            raise ValueError("only one interceptor of a stack may define `admits`")
        self._admits: Callable[[Call, Endpoint], bool] | None = admits[0] if admits else None
        self._on_error = on_error
        self.is_async = any(inspect.iscoroutinefunction(hook) for hook in self._request)

    def on_request(self, call: Call) -> None:
        """Run the hooks of the way in; raises what they raise. Not for a pipeline that `is_async`."""
        for hook in self._request:
            hook(call)

    async def on_request_async(self, call: Call) -> None:
        """Run the hooks of the way in, awaiting those that are asynchronous."""
        for hook in self._request:
            waits = hook(call)
            if waits is not None:
                await waits

    def admits(self, call: Call, endpoint: Endpoint) -> bool:
        """Tell whether every interceptor lets `endpoint` be tried."""
        admits = self._admits
        return admits is None or admits(call, endpoint)

    def on_response(self, call: Call) -> None:
        """Run the hooks that watch the begin of the answer."""
        for hook in self._response:
            try:
                hook(call)
            except Exception as error:  # noqa: BLE001 - see the class
                self._on_error(call, error)

    def on_attempt_end(self, call: Call, endpoint: Endpoint) -> None:
        """Run the hooks that watch the end of an attempt."""
        for hook in self._attempt_end:
            try:
                hook(call, endpoint)
            except Exception as error:  # noqa: BLE001 - see the class
                self._on_error(call, error)

    def on_end(self, call: Call) -> None:
        """Run the hooks that watch the end of the call."""
        for hook in self._end:
            try:
                hook(call)
            except Exception as error:  # noqa: BLE001 - see the class
                self._on_error(call, error)


def _hooks(interceptors: Sequence[Interceptor], name: str) -> tuple[Callable[..., Any], ...]:
    """Return the bound hooks that differ from the base class' empty ones."""
    base = getattr(Interceptor, name)
    return tuple(
        getattr(interceptor, name) for interceptor in interceptors if getattr(type(interceptor), name, base) is not base
    )
