"""What the policies of a service come to for the calls of one method: worked out when they or the endpoints change."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from mesh.discovery.model import Health
from mesh.resilience.balancer import Balancer, RoundRobin
from mesh.resilience.breaker import BreakerOptions
from mesh.resilience.least_request import LeastRequest
from mesh.resilience.outlier import OutlierDetector
from mesh.resilience.peak_ewma import Latency, PeakEwma
from mesh.resilience.policy import (
    LEAST_REQUEST,
    PEAK_EWMA,
    RING_HASH,
    BalancerOptions,
    HedgeOptions,
    RoutePolicy,
    TimeoutOptions,
)
from mesh.resilience.rate_limit import RateLimiter
from mesh.resilience.retry import RetryPolicy
from mesh.resilience.ring_hash import RingHash
from mesh.sdk.endpoints import Endpoint
from mesh.sdk.ways import Ways

# Shares are rounded to so many parts in all.
PARTS = 10_000

Admits = Callable[[Endpoint], bool]


@dataclass(slots=True)
class Targets:
    """The endpoints of a service that take calls, as one balancer sees them."""

    balancer: Balancer[Endpoint]
    # All that take calls; those whose turn never comes, being in another zone, are there for when no other is admitted.
    willing: tuple[Endpoint, ...] = ()
    # The name of metadata whose value keeps calls together; "" is none.
    hash_key: str = ""
    now: Callable[[], float] = lambda: 0.0
    # Whether any may be set aside.
    outliers: bool = False
    others: tuple[Endpoint, ...] = ()

    def pick(self, key: bytes, admits: Admits, now: float) -> Endpoint | None:
        """Return the endpoint for an attempt; those that are set aside only when no other is admitted."""
        if not self.outliers:
            found = self.balancer.pick(key, admits)
        else:
            found = self.balancer.pick(key, lambda one: _in(one, now) and admits(one)) or self.balancer.pick(
                key, lambda one: not _in(one, now) and admits(one)
            )
        if found is None:
            found = next((one for one in self.others if admits(one)), None)
        return found


def _in(endpoint: Endpoint, now: float) -> bool:
    return endpoint.outlier is None or endpoint.outlier.ejected_until <= now


@dataclass(slots=True)
class Plan:
    """What the calls of one method meet."""

    targets: Targets
    timeout: TimeoutOptions = field(default_factory=TimeoutOptions)
    retry: RetryPolicy | None = None
    hedge: HedgeOptions | None = None
    breaker: BreakerOptions = field(default_factory=BreakerOptions)
    detector: OutlierDetector | None = None
    latencies: bool = False
    limiter: RateLimiter | None = None
    limit_key: str = ""
    most_in_flight: int | None = None
    # Where routes lead calls; None is nowhere else.
    ways: Ways | None = None
    # None of the instances that say what they serve has the method's service; what they have instead.
    served: tuple[str, ...] | None = None


def make_targets(
    endpoints: Sequence[Endpoint],
    weights: Sequence[int],
    policy: RoutePolicy | None,
    detector: OutlierDetector | None,
    now: Callable[[], float],
) -> Targets:
    """Return what picks among the endpoints that want calls."""
    options = policy.balancer if policy is not None else BalancerOptions()
    taking = [at for at, one in enumerate(endpoints) if one.instance.health is Health.SERVING]
    willing, shares = [endpoints[at] for at in taking], [weights[at] for at in taking]
    if detector is not None:
        for one in willing:
            one.outlier = detector.host(one.key)
    return Targets(
        _balancer(options, willing, shares, now),
        tuple(one for one in willing if one.instance.weight > 0),
        options.hash_key if options.kind == RING_HASH else "",
        now,
        outliers=detector is not None,
        others=tuple(one for one, share in zip(willing, shares, strict=True) if not share and one.instance.weight > 0),
    )


def _balancer(
    options: BalancerOptions, willing: Sequence[Endpoint], weights: Sequence[int], now: Callable[[], float]
) -> Balancer[Endpoint]:
    dice = random.random
    if options.kind == LEAST_REQUEST:
        return LeastRequest(willing, weights, dice)
    if options.kind == PEAK_EWMA:
        return PeakEwma(willing, weights, [_latency(one, options, now()) for one in willing], now, dice)
    if options.kind == RING_HASH:
        names = [f"{one.instance.instance_id} {one.address}" for one in willing]
        return RingHash(willing, weights, names, options.load_factor, dice)
    return RoundRobin(willing, weights)


def _latency(endpoint: Endpoint, options: BalancerOptions, now: float) -> Latency:
    """Return what is known of an endpoint, for as long as it is looked at in the same way."""
    known = endpoint.latency
    if known is None or known.decay_seconds != options.decay_seconds:
        known = endpoint.latency = Latency(options.decay_seconds, options.start_seconds, now)
    return known
