"""What a route may ask for: how long a call may take, how often it is tried, where it goes, how much comes through.

The options alone, each default in this one place; what follows from them is decided in the modules beside this one.
They are frozen values that compare by content, so that what was learnt under a policy (budgets, buckets, ejections) is
kept as long as the policy stays the same.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from mesh.options import require
from mesh.resilience.breaker import BreakerOptions
from mesh.resilience.outcome import CODE_NAMES

# What `RetryOptions.on` may hold beside the names of status codes.
CONNECT_FAILURE = "connect-failure"
REFUSED = "refused"

ROUND_ROBIN = "round_robin"
LEAST_REQUEST = "least_request"
PEAK_EWMA = "peak_ewma"
RING_HASH = "ring_hash"
BALANCERS = (ROUND_ROBIN, LEAST_REQUEST, PEAK_EWMA, RING_HASH)

KEY_NONE = "none"
KEY_METADATA = "metadata"
KEY_PEER = "peer"
RATE_LIMIT_KEYS = (KEY_NONE, KEY_METADATA, KEY_PEER)

# gRPC's own bound on attempts (A6): more of them mend nothing, and multiply a load that is too high already.
MAX_ATTEMPTS = 5

_DAY = 86400.0
_NAME = re.compile(r"[a-z0-9_.-]{1,256}").fullmatch


@dataclass(frozen=True, slots=True)
class TimeoutOptions:
    """Bounds on how long a call may take, in seconds. Unset means that only the client decides."""

    # Given to calls that come without a deadline. Long-lived streams come without one: mind them before setting it.
    default_seconds: float | None = None
    # Longer deadlines, and missing ones, are cut to this.
    max_seconds: float | None = None

    def __post_init__(self) -> None:
        """Check the values; raises UsageError, which names the one that makes no sense, as all classes here do."""
        for name in ("default_seconds", "max_seconds"):
            value = getattr(self, name)
            require(value is None or 0 < value <= _DAY, f"timeout.{name} must be above 0 and at most 86400")


@dataclass(frozen=True, slots=True)
class RetryOptions:
    """Which failed attempts are made again, how often and when.

    Only for methods that may be carried out twice: an attempt whose answer got lost may have done its work. Without any
    such options, only what no upstream has seen is tried again.
    """

    # Attempts of one call in all, the first one included. One instance of three being away, a second attempt meets a
    # healthy one; the third is for restarts that take two at a time.
    attempts: int = 3
    # Names of status codes ("UNAVAILABLE"), "connect-failure" (no connection came about) and "refused" (the upstream
    # said that it had not processed the stream). UNAVAILABLE is the one code that promises that another try may help.
    on: frozenset[str] = frozenset({"UNAVAILABLE", CONNECT_FAILURE, REFUSED})
    # What an attempt may take to begin its answer before it is given up and another one made. Unset: the call's
    # deadline.
    per_try_seconds: float | None = None
    # The wait before the second attempt is drawn from 0 to base, before the third from 0 to 2 * base, and so on up to
    # max. 25 and 250 ms are those of Envoy and gRPC.
    backoff_base_seconds: float = 0.025
    backoff_max_seconds: float = 0.25
    # Of a service's calls in any 10 s, this share may be made again, and `budget_minimum` more of them a second: a
    # fleet that is down must not get a multiple of its load, and a quiet service's retries hurt nobody. Linkerd's
    # figures.
    budget_share: float = 0.2
    budget_minimum: float = 10.0

    def __post_init__(self) -> None:
        """Check the values; raises UsageError."""
        require(1 <= self.attempts <= MAX_ATTEMPTS, f"retry.attempts must be from 1 to {MAX_ATTEMPTS}")
        unknown = sorted(self.on.difference(CODE_NAMES[1:], (CONNECT_FAILURE, REFUSED)))
        require(
            not unknown,
            f"retry.on: '{', '.join(unknown)}' is neither the code of a failed call, such as UNAVAILABLE,"
            f" nor {CONNECT_FAILURE} or {REFUSED}",
        )
        _seconds("retry.per_try_seconds", self.per_try_seconds, optional=True)
        _seconds("retry.backoff_base_seconds", self.backoff_base_seconds)
        _seconds("retry.backoff_max_seconds", self.backoff_max_seconds)
        require(
            self.backoff_base_seconds <= self.backoff_max_seconds,
            "retry.backoff_max_seconds must not be below retry.backoff_base_seconds",
        )
        require(0 <= self.budget_share <= 1, "retry.budget_share must be from 0 to 1")
        require(0 <= self.budget_minimum <= 10_000, "retry.budget_minimum must be from 0 to 10000")

    @property
    def codes(self) -> frozenset[int]:
        """The numbers of the status codes in `on`."""
        return frozenset(number for number, name in enumerate(CODE_NAMES) if name in self.on)


@dataclass(frozen=True, slots=True)
class OutlierOptions:
    """When an endpoint is set aside for being worse than its siblings, and for how long."""

    # So many failures one after the other set an endpoint aside at once (Envoy's figure). 0: never for that.
    consecutive_failures: int = 5
    # Every so often the endpoints are compared, by what they did since the last time.
    interval_seconds: float = 10.0
    # Set aside whose share of successes is below the mean of all by more than `success_rate_factor` standard
    # deviations. Judged where at least `success_rate_hosts` endpoints had at least `success_rate_calls` calls each.
    # Envoy's figures: one of fewer than five can never be 1.9 deviations off. 0: never for that.
    success_rate_factor: float = 1.9
    success_rate_hosts: int = 5
    success_rate_calls: int = 100
    # Set aside what takes more than so many times the median of all to begin its answers, judged as above. Unset: never
    # for that, since calls may differ honestly.
    latency_factor: float | None = None
    # How long the first ejection lasts; each further one by as much longer, up to the maximum; an interval without any
    # takes one off again.
    base_ejection_seconds: float = 30.0
    max_ejection_seconds: float = 300.0
    # Of the endpoints of a service this share, rounded down, may be set aside at a time: the others must carry the
    # load, and when most are bad it is not they that are the outliers. One of two is a half; Envoy's 0.1 would protect
    # no small fleet.
    max_ejection_share: float = 0.5

    def __post_init__(self) -> None:
        """Check the values; raises UsageError."""
        require(0 <= self.consecutive_failures <= 10_000, "outlier.consecutive_failures must be from 0 to 10000")
        require(0 <= self.success_rate_factor <= 10, "outlier.success_rate_factor must be from 0 to 10")
        require(2 <= self.success_rate_hosts <= 10_000, "outlier.success_rate_hosts must be from 2 to 10000")
        require(1 <= self.success_rate_calls <= 10**6, "outlier.success_rate_calls must be from 1 to 1000000")
        factor = self.latency_factor
        require(factor is None or 1 < factor <= 1000, "outlier.latency_factor must be above 1 and at most 1000")
        for name in ("interval_seconds", "base_ejection_seconds", "max_ejection_seconds"):
            _seconds(f"outlier.{name}", getattr(self, name))
        require(
            self.base_ejection_seconds <= self.max_ejection_seconds,
            "outlier.max_ejection_seconds must not be below outlier.base_ejection_seconds",
        )
        require(0 <= self.max_ejection_share <= 1, "outlier.max_ejection_share must be from 0 to 1")


@dataclass(frozen=True, slots=True)
class RateLimitOptions:
    """How many calls come through: a bucket of `burst` tokens that fills at `per_second`, one token a call."""

    # Calls a second; a worker's own, as all limits are.
    per_second: float
    # Calls that may come at once after a pause. Unset: what a second brings, at least one.
    burst: int | None = None
    # Who shares a bucket: "none" is all calls, "metadata" those with the same value of `metadata_key` (those without it
    # share one), "peer" those of one client: its certificate's name, else its address (IPv6: the first 64 bits).
    key: str = KEY_NONE
    metadata_key: str = ""
    # Buckets that are kept. When all of them are in use, further keys share one. A bucket takes about 300 bytes.
    max_keys: int = 10_000

    def __post_init__(self) -> None:
        """Check the values; raises UsageError."""
        require(0.001 <= self.per_second <= 10**6, "rate_limit.per_second must be from 0.001 to 1000000")
        burst = self.burst
        require(burst is None or 1 <= burst <= 10**6, "rate_limit.burst must be from 1 to 1000000")
        require(self.key in RATE_LIMIT_KEYS, f"rate_limit.key: '{self.key}' is none of {', '.join(RATE_LIMIT_KEYS)}")
        if self.key == KEY_METADATA:
            _metadata_key("rate_limit.metadata_key", self.metadata_key)
        require(1 <= self.max_keys <= 10**6, "rate_limit.max_keys must be from 1 to 1000000")

    @property
    def tokens(self) -> float:
        """How many tokens a bucket holds."""
        return float(self.burst if self.burst is not None else max(1, round(self.per_second)))


@dataclass(frozen=True, slots=True)
class LimitOptions:
    """What one call, and all of them together, may take. Unset is the edge's own limit, which none of them exceeds."""

    # Bytes of one message, either way, and of a request's metadata as HTTP/2 counts them.
    max_message_bytes: int | None = None
    max_header_bytes: int | None = None
    # Calls in flight; a worker's own, as all limits are.
    max_calls_in_flight: int | None = None

    def __post_init__(self) -> None:
        """Check the values; raises UsageError."""
        for name, high in (("max_message_bytes", 1 << 30), ("max_header_bytes", 1 << 20)):
            value = getattr(self, name)
            require(value is None or 1024 <= value <= high, f"limits.{name} must be from 1024 to {high}")
        calls = self.max_calls_in_flight
        require(calls is None or 1 <= calls <= 10**6, "limits.max_calls_in_flight must be from 1 to 1000000")


@dataclass(frozen=True, slots=True)
class BalancerOptions:
    """Which of the endpoints that take calls gets the next one. All kinds respect weights."""

    # round_robin: in turn; cheapest, and even where calls cost alike. least_request: of two at random the one with
    # fewer calls in flight. peak_ewma: likewise by in flight times recent latency, so that slow ones get less.
    # ring_hash: calls with one key go to one endpoint as long as it lives and is not overloaded.
    kind: str = ROUND_ROBIN
    # ring_hash: the metadata whose value is the key. Calls without it go to any endpoint.
    hash_key: str = ""
    # ring_hash: an endpoint takes at most so many times its fair share of the calls in flight; beyond it the next one
    # on the ring does. 1.25 is the figure of the paper (Mirrokni, Thorup, Zadimoghaddam, 2016) and of Vimeo's HAProxy.
    load_factor: float = 1.25
    # peak_ewma: a latency counts 1/e after so many seconds; and what one without any is taken to have. Linkerd's
    # figures.
    decay_seconds: float = 10.0
    start_seconds: float = 0.03

    def __post_init__(self) -> None:
        """Check the values; raises UsageError."""
        require(self.kind in BALANCERS, f"balancer.kind: '{self.kind}' is none of {', '.join(BALANCERS)}")
        if self.kind == RING_HASH:
            _metadata_key("balancer.hash_key", self.hash_key)
        require(1.01 <= self.load_factor <= 100, "balancer.load_factor must be from 1.01 to 100")
        _seconds("balancer.decay_seconds", self.decay_seconds)
        _seconds("balancer.start_seconds", self.start_seconds)


@dataclass(frozen=True, slots=True)
class HedgeOptions:
    """When a second attempt is made beside one that takes long. Only for methods that may be carried out twice."""

    # How long the first attempt is waited for: about the 95th percentile, so that one call in twenty is made twice.
    delay_seconds: float = 0.1
    # Attempts of one call in all, the first one included.
    attempts: int = 2

    def __post_init__(self) -> None:
        """Check the values; raises UsageError."""
        _seconds("hedge.delay_seconds", self.delay_seconds)
        require(2 <= self.attempts <= MAX_ATTEMPTS, f"hedge.attempts must be from 2 to {MAX_ATTEMPTS}")


@dataclass(frozen=True, slots=True)
class RoutePolicy:
    """All that is asked for on one route. Unset is what the edge or client does without a policy."""

    # Whose limits these are: routes of one service share a rate limit when both name and options are the same.
    name: str = ""
    timeout: TimeoutOptions | None = None
    retry: RetryOptions | None = None
    breaker: BreakerOptions | None = None
    outlier: OutlierOptions | None = None
    rate_limit: RateLimitOptions | None = None
    balancer: BalancerOptions = field(default_factory=BalancerOptions)
    hedge: HedgeOptions | None = None
    limits: LimitOptions | None = None
    # Whose calls `limits.max_calls_in_flight` counts together, as `name` is for the rate limit.
    limits_name: str = ""


def _seconds(name: str, value: float | None, *, optional: bool = False) -> None:
    if value is not None or not optional:
        require(value is not None and 0.001 <= value <= _DAY, f"{name} must be from 0.001 to 86400")


def _metadata_key(name: str, value: str) -> None:
    require(_NAME(value) is not None, f"{name}: '{value}' is no name of metadata: lower case letters, digits and -_.")
