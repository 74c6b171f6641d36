"""What an interceptor is. Never compiled (setup.py), so that classes of users can inherit from it."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TYPE_CHECKING

from proxy.call.call import Call

if TYPE_CHECKING:
    from proxy.upstream.endpoint import Endpoint


class Interceptor:
    """Something that every call of a route passes. Override the hooks that are needed; the others cost nothing.

    Hooks run in the order of the stack on the way in and in reverse on the way out. They must not block.
    """

    # Its name in lists that people read.
    name: str = ""

    def on_request(self, call: Call) -> Awaitable[None] | None:
        """See the request's metadata; may edit it, may `raise Reject`; may be `async def`, which costs a task."""

    def admits(self, call: Call, endpoint: Endpoint) -> bool:
        """Tell whether `endpoint` may be tried now. A True is followed by one attempt and one `on_attempt_end`.

        One interceptor of a stack may define it: with two, a yes of the first would need a taking back.
        """
        raise NotImplementedError

    def on_response(self, call: Call) -> None:
        """See that the upstream began to answer."""

    def on_attempt_end(self, call: Call, endpoint: Endpoint) -> None:
        """See the end of one attempt: `call.status` is its outcome, which a further attempt may still change."""

    def on_end(self, call: Call) -> None:
        """See the end of the call, exactly once, whatever happened; `call.status` is final."""
