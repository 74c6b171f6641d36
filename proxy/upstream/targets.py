"""The endpoints that a call may go to, and which one gets it."""

from __future__ import annotations

from collections.abc import Sequence

from mesh.discovery.model import Health
from mesh.resilience.balancer import schedule
from proxy.call.call import Call
from proxy.call.pipeline import Pipeline
from proxy.call.reason import Reason
from proxy.upstream.endpoint import Endpoint
from proxy.upstream.weighing import Weigh, plain


class Targets:
    """The endpoints of one route that want calls, in weighted round robin."""

    __slots__ = ("__weakref__", "_schedule", "_turn", "endpoints", "known", "weigh", "weights", "willing")

    def __init__(self, known: Sequence[Endpoint], weigh: Weigh = plain) -> None:
        # All endpoints that live, and those of them that take calls.
        self.known = tuple(known)
        self.weigh = weigh
        weights = weigh(known)
        taking = [at for at, endpoint in enumerate(known) if endpoint.instance.health is Health.SERVING]
        self.willing = [known[at] for at in taking]
        self.weights = [weights[at] for at in taking]
        self._schedule = schedule(self.willing, self.weights)
        # Those whose turn never comes, being in another zone, are there for when no other is admitted.
        others = (endpoint for endpoint in self.willing if endpoint.instance.weight > 0)
        self.endpoints = tuple(dict.fromkeys((*self._schedule, *others)))
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
