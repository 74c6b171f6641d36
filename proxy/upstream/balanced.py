"""The endpoints of a route whose policy has a balancer of its own, or has outliers set aside."""

from __future__ import annotations

from collections.abc import Callable

from mesh.resilience.balancer import Balancer, RoundRobin
from mesh.resilience.least_request import LeastRequest
from mesh.resilience.outlier import Host, OutlierDetector
from mesh.resilience.peak_ewma import Latency, PeakEwma
from mesh.resilience.policy import LEAST_REQUEST, PEAK_EWMA, RING_HASH, BalancerOptions
from mesh.resilience.ring_hash import RingHash
from proxy.call.call import Call
from proxy.call.pipeline import Pipeline
from proxy.upstream.endpoint import Endpoint
from proxy.upstream.targets import Targets


class Balancing:
    """How a policy has calls spread."""

    __slots__ = ("detector", "dice", "now", "options")

    def __init__(
        self,
        options: BalancerOptions,
        detector: OutlierDetector | None,
        now: Callable[[], float],
        dice: Callable[[], float],
    ) -> None:
        """Make it; `dice` returns numbers from 0 to below 1."""
        self.options = options
        self.detector = detector
        self.now = now
        self.dice = dice

    def balancer(self, targets: Targets) -> Balancer[Endpoint]:
        """Return a balancer over the endpoints that want calls."""
        options = self.options
        endpoints, weights = targets.willing, targets.weights
        if options.kind == LEAST_REQUEST:
            return LeastRequest(endpoints, weights, self.dice)
        if options.kind == PEAK_EWMA:
            return PeakEwma(endpoints, weights, [self._latency(one) for one in endpoints], self.now, self.dice)
        if options.kind == RING_HASH:
            names = [f"{one.instance_id} {one.address}" for one in endpoints]
            return RingHash(endpoints, weights, names, options.load_factor, self.dice)
        return RoundRobin(endpoints, weights)

    def _latency(self, endpoint: Endpoint) -> Latency:
        """Return what is known of an endpoint, for as long as it is looked at in the same way."""
        options, known = self.options, endpoint.latency
        if known is None or known.decay_seconds != options.decay_seconds:
            known = endpoint.latency = Latency(options.decay_seconds, options.start_seconds, self.now())
        return known


class BalancedTargets(Targets):
    """Picks by a policy."""

    __slots__ = ("_balancer", "_hash_key", "_hosts", "_now")

    def __init__(self, targets: Targets, balancing: Balancing) -> None:
        super().__init__(targets.known, targets.weigh)
        self._balancer = balancing.balancer(self)
        options = balancing.options
        self._hash_key = options.hash_key.encode() if options.kind == RING_HASH else b""
        self._now = balancing.now
        self._hosts: dict[Endpoint, Host] | None = None
        if balancing.detector is not None:
            for endpoint in self.endpoints:
                endpoint.outlier = balancing.detector.host(endpoint.key)
            self._hosts = {one: one.outlier for one in self.endpoints if one.outlier is not None}

    def pick(self, call: Call, pipeline: Pipeline) -> Endpoint | None:
        """Return the endpoint for an attempt; those that are set aside only when no other is admitted."""
        key = (call.header(self._hash_key) or b"") if self._hash_key else b""
        hosts, tried, balancer = self._hosts, call.tried, self._balancer
        call.attempt_at = now = self._now()
        if hosts is None:
            found = balancer.pick(key, lambda one: one not in tried and pipeline.admits(call, one))
        else:
            found = balancer.pick(
                key, lambda one: hosts[one].ejected_until <= now and one not in tried and pipeline.admits(call, one)
            ) or balancer.pick(
                key, lambda one: hosts[one].ejected_until > now and one not in tried and pipeline.admits(call, one)
            )
        return found or self._again(call, pipeline)
