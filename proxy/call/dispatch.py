"""The path of a call, the same for every engine: decisions here, I/O there.

An engine does, for each call: `begin`, `admit`, then for each attempt `next_endpoint` and `end_attempt`, and at last
`end`, whatever happened in between.
"""

from __future__ import annotations

from collections.abc import Mapping

from mypy_extensions import mypyc_attr

from mesh.clock import Clock
from mesh.resilience import outcome
from mesh.resilience.outcome import is_failure
from proxy.call.call import Call, Metadata
from proxy.call.limits import Limits
from proxy.call.pipeline import Pipeline
from proxy.call.reason import Reason, Reject
from proxy.routing.table import EMPTY, RouteTable
from proxy.upstream.endpoint import Endpoint

# So much of the path of a request that is no gRPC is noted.
MAX_PATH = 256


@mypyc_attr(allow_interpreted_subclasses=True)  # tests count what passes here
class Dispatcher:
    """Takes calls through pipeline, routing and upstream."""

    def __init__(self, clock: Clock, limits: Limits, routed: Pipeline, local: Pipeline) -> None:
        self.now = clock.now
        self.limits = limits
        # For calls that go to an upstream on a route without a policy, and for calls that go nowhere.
        self.routed = routed
        self.local = local
        # By listener; replaced as a whole when the registry changes.
        self.tables: Mapping[str, RouteTable] = {}
        self.in_flight = 0

    def begin(
        self, listener: str, method: bytes, metadata: Metadata, peer: str, by_name: dict[bytes, bytes] | None = None
    ) -> Call:
        """Return a new call with its route; `end` must follow. `by_name` is the metadata by name, if it is at hand."""
        call = Call(method, metadata, peer, listener, self.now())
        call.by_name = by_name
        call.route = route = self.tables.get(listener, EMPTY).find(method)
        if route is not None and route.plain:
            call.pipeline = self.routed
        else:
            self._set_out(call)
        self.in_flight += 1
        return call

    def note_no_grpc(self, listener: str, fields: Mapping[bytes, bytes], peer: str, http_status: bytes) -> None:
        """Note, in the log and the metrics, a request that is no gRPC; the engine answers it with an HTTP status."""
        call = self.begin(listener, b"", (), peer)
        call.method = fields.get(b":path", b"")[:MAX_PATH]
        call.pipeline = self.local
        self.local.on_request(call)
        got = [fields.get(name, b"")[:64].decode("ascii", "replace") for name in (b":method", b"content-type")]
        what = " of ".join(filter(None, got))
        call.finish(outcome.UNKNOWN, f"answered with HTTP {http_status.decode()}: {what} is no gRPC", Reason.NO_GRPC)
        self.end(call)

    def admit(self, call: Call) -> bytes:
        """Run the pipeline's way in; raises Reject when the call is answered here. Not for an async pipeline.

        Returns the received metadata, joined: engines look for characters in it that they cannot pass on.
        """
        assert call.pipeline is not None
        call.pipeline.on_request(call)
        return self._check(call)

    async def admit_async(self, call: Call) -> bytes:
        """Do what `admit` does, for a pipeline with asynchronous hooks."""
        assert call.pipeline is not None
        await call.pipeline.on_request_async(call)
        return self._check(call)

    def next_endpoint(self, call: Call) -> Endpoint:
        """Return the endpoint of the next attempt, which begins; raises Reject when there is none to try."""
        route, pipeline = call.route, call.pipeline
        assert route is not None
        assert pipeline is not None
        if route.is_local:  # what the edge does serve of its own services never comes here
            raise Reject(Reason.NO_ROUTE, "unknown method")
        endpoint = route.targets.pick(call, pipeline)
        if endpoint is None:
            raise self._nowhere(call)
        call.endpoint = endpoint
        call.attempts += 1
        call.status = -1
        call.reason = None
        endpoint.in_flight += 1
        endpoint.calls += 1
        return endpoint

    def retry_endpoint(self, call: Call) -> Endpoint:
        """Return the endpoint of an attempt that follows a wait: one that was not tried, else any; raises Reject."""
        try:
            return self.next_endpoint(call)
        except Reject:
            tried, call.tried = call.tried, ()
            try:
                return self.next_endpoint(call)
            finally:
                call.tried = tried

    def on_response(self, call: Call) -> None:
        """Note that the upstream began to answer."""
        assert call.pipeline is not None
        call.response_at = self.now()
        call.pipeline.on_response(call)

    def end_attempt(self, call: Call, status: int, message: str = "", reason: Reason | None = None) -> None:
        """End the attempt under way with its outcome, which is the call's as long as no other attempt follows."""
        endpoint, pipeline = call.endpoint, call.pipeline
        assert endpoint is not None
        assert pipeline is not None
        call.finish(status, message, reason)
        endpoint.in_flight -= 1
        if is_failure(status) and not call.cancelled:
            endpoint.failures += 1
        call.tried = (*call.tried, endpoint)
        pipeline.on_attempt_end(call, endpoint)

    def end(self, call: Call) -> None:
        """End the call; its status is known."""
        if call.ended_at:
            return
        assert call.pipeline is not None
        call.ended_at = self.now()
        self.in_flight -= 1
        call.pipeline.on_end(call)

    def _set_out(self, call: Call) -> None:
        """Find the way of a call whose route is not plain."""
        route = call.route
        if route is None or route.is_local:
            call.pipeline = self.local
            return
        if route.chooser is not None:
            call.route = route = route.chooser.choose(call)
        plan = route.plan
        call.pipeline = self.routed if plan is None else plan.pipeline

    def limits_of(self, call: Call) -> Limits:
        """Return what is accepted of a call."""
        route = call.route
        return self.limits if route is None or route.limits is None else route.limits

    def _check(self, call: Call) -> bytes:
        route = call.route
        joined = (self.limits if route is None else route.limits or self.limits).check_headers(call)
        if self.in_flight > self.limits.max_calls_in_flight:
            raise Reject(
                Reason.OVERLOADED, f"the edge has {self.limits.max_calls_in_flight} calls in flight, its limit: retry"
            )
        if route is None:
            # The same words for a service that does not exist and for one that this listener does not show.
            service = call.method.rpartition(b"/")[0].lstrip(b"/").decode("ascii", "replace")
            raise Reject(Reason.NO_ROUTE, f"unknown service {service}" if service else "malformed method name")
        return joined

    def _nowhere(self, call: Call) -> Reject:
        route = call.route
        assert route is not None
        targets = route.targets
        if call.tried and call.reason is not None:
            return Reject(call.reason, call.message)
        if targets.endpoints:
            return Reject(
                Reason.BREAKER_OPEN,
                f"every endpoint of {route.service} fails; its circuit breakers are open: retry later",
            )
        if targets.known:
            return Reject(Reason.NO_ENDPOINT, f"no instance of {route.service} is serving now")
        return Reject(Reason.NO_ENDPOINT, f"no instance of {route.service} is registered now")
