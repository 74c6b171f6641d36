"""The endpoints that a call may go to, and which one gets it."""

from __future__ import annotations

from collections.abc import Sequence

from mesh.discovery.model import Health
from mesh.resilience.balancer import schedule
from proxy.call.call import Call
from proxy.call.pipeline import Pipeline
from proxy.call.reason import Reason
from proxy.upstream.endpoint import Endpoint


class Targets:
    """The endpoints of one route that want calls, in weighted round robin."""

    __slots__ = ("__weakref__", "_schedule", "_turn", "endpoints", "known", "weights", "willing")

    def __init__(self, known: Sequence[Endpoint]) -> None:
        # All endpoints that live, and those of them that take calls.
        self.known = tuple(known)
        self.willing = [endpoint for endpoint in known if endpoint.instance.health is Health.SERVING]
        self.weights = [endpoint.instance.weight for endpoint in self.willing]
        self._schedule = schedule(self.willing, self.weights)
        self.endpoints = tuple(dict.fromkeys(self._schedule))
        self._turn = -1

    def pick(self, call: Call, pipeline: Pipeline) -> Endpoint | None:
        """Return the endpoint whose turn it is, or the next one that was not tried and is admitted; None if none is."""
        turns = self._schedule
        if not turns:
            return None
        self._turn = turn = (self._turn + 1) % len(turns)
        first = turns[turn]
        if first not in call.tried and pipeline.admits(call, first):
            return first
        endpoints = self.endpoints
        start = endpoints.index(first) + 1
        for endpoint in endpoints[start:] + endpoints[: start - 1]:
            if endpoint not in call.tried and pipeline.admits(call, endpoint):
                return endpoint
        return self._again(call, pipeline)

    def _again(self, call: Call, pipeline: Pipeline) -> Endpoint | None:
        """Return the endpoint that refused the stream, where there is no other: a new connection may do (GOAWAY)."""
        if call.reason is not Reason.UPSTREAM_RESET or not call.tried:
            return None
        last = call.tried[-1]
        return last if last in self.endpoints and pipeline.admits(call, last) else None
