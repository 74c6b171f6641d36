"""What share of calls an instance gets: its weight, less while it warms up, and who in which zone gets how much. Pure.

Clients work this out when they compile whom they call, not when they call; while somebody warms up they do so again
now and then (`warming`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mesh.discovery.model import Health, Instance

# An instance that has just begun gets a tenth of its share (Envoy's slow start begins there too): less would keep its
# caches cold, more would show its cold start to too many.
FIRST_SHARE = 0.1
# A zone takes all of its own calls while so much of it serves (Envoy's 1.4: whole while at least 1/1.4 = 71 % does).
OVERPROVISION = 1.4


def effective_weight(instance: Instance, now: float) -> float:
    """Return the weight of an instance at `now`, in seconds since 1970: from a tenth of it to all of it, in a line.

    The time at which it began to serve is the registry's: clocks that differ by seconds make a warm-up that much
    shorter or longer, and never undo it.
    """
    warm_up = instance.warm_up_seconds
    if warm_up <= 0 or not instance.serving_since:
        return float(instance.weight)
    age = max(0.0, now - instance.serving_since)
    return instance.weight * min(1.0, max(FIRST_SHARE, age / warm_up))


def warming(instances: Iterable[Instance], now: float) -> bool:
    """Tell whether the weight of any of these will have changed a moment later."""
    return any(
        one.warm_up_seconds > 0 and one.serving_since and now - one.serving_since < one.warm_up_seconds
        for one in instances
    )


@dataclass(frozen=True, slots=True)
class Member:
    """One of those that calls may go to."""

    zone: str
    weight: float
    serving: bool


def zone_shares(members: Sequence[Member], zone: str) -> dict[str, float]:
    """Return the share of calls that each zone gets from a caller in `zone`; they add up to 1 when anybody serves.

    Calls stay in the caller's zone while enough of it serves: it takes `OVERPROVISION` times the part of its weight
    that serves, at most everything. What is left goes to the other zones in proportion to their serving weight. A
    caller without a zone, or in one that has no members, spreads over all of them.
    """
    serving: dict[str, float] = {}
    for member in members:
        if member.serving and member.weight > 0:
            serving[member.zone] = serving.get(member.zone, 0.0) + member.weight
    total = sum(serving.values())
    if total <= 0:
        return {}
    known = sum(member.weight for member in members if member.zone == zone)
    if not zone or known <= 0:
        return {name: weight / total for name, weight in serving.items()}
    own = serving.get(zone, 0.0)
    local = min(1.0, OVERPROVISION * own / known)
    elsewhere = total - own
    if elsewhere <= 0:
        return {zone: 1.0}
    shares = {name: (1 - local) * weight / elsewhere for name, weight in serving.items() if name != zone}
    return {name: share for name, share in ({zone: local} | shares).items() if share > 0}


def shared_weights(instances: Sequence[Instance], zone: str, now: float) -> list[float]:
    """Return what each instance counts for a caller in `zone`; 0 for those that take no calls.

    Instances that are leaving do not count as missing from their zone: they go on purpose.
    """
    members = [
        Member(one.zone, effective_weight(one, now), one.health is Health.SERVING)
        for one in instances
        if one.health is not Health.DRAINING
    ]
    shares = zone_shares(members, zone)
    totals: dict[str, float] = {}
    for member in members:
        if member.serving:
            totals[member.zone] = totals.get(member.zone, 0.0) + member.weight
    return [
        shares.get(one.zone, 0.0) * effective_weight(one, now) / totals[one.zone]
        if one.health is Health.SERVING and totals.get(one.zone)
        else 0.0
        for one in instances
    ]
