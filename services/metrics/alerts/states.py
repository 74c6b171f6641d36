"""The states of one rule's alerts: inactive, pending, firing, resolved. Pure: it is told the time."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, replace

from services.metrics.alerts.rules import Rule
from services.metrics.promql.labels import Labels

# How long an alert that was resolved is still shown.
RESOLVED_KEPT_MS = 15 * 60_000


class State(enum.Enum):
    PENDING = "pending"
    FIRING = "firing"
    RESOLVED = "resolved"


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """Somebody looks after the alert."""

    author: str
    comment: str
    at_ms: int


@dataclass(frozen=True, slots=True)
class Active:
    """An alert that is not inactive; times in milliseconds, 0 for never."""

    labels: Labels
    annotations: Mapping[str, str]
    state: State
    value: float
    active_ms: int
    fired_ms: int = 0
    resolved_ms: int = 0
    # Since when its condition no longer holds while `keep_firing_for` keeps it firing.
    kept_ms: int = 0
    acknowledged: Acknowledged | None = None


@dataclass(frozen=True, slots=True)
class Holds:
    """What a rule's query came to for one alert."""

    value: float
    annotations: Mapping[str, str]


def step(
    rule: Rule, before: Mapping[Labels, Active], holds: Mapping[Labels, Holds], now_ms: int
) -> dict[Labels, Active]:
    """Return the alerts after an evaluation in which those of `holds` had their condition fulfilled."""
    after: dict[Labels, Active] = {}
    for labels, found in holds.items():
        old = before.get(labels)
        if old is None or old.state is State.RESOLVED:
            old = Active(labels, found.annotations, State.PENDING, found.value, now_ms)
        now = replace(old, value=found.value, annotations=found.annotations, kept_ms=0)
        if now.state is State.PENDING and now_ms - now.active_ms >= rule.for_ * 1000:
            now = replace(now, state=State.FIRING, fired_ms=now_ms)
        after[labels] = now
    for labels, old in before.items():
        if labels not in after and (left := _without(rule, old, now_ms)) is not None:
            after[labels] = left
    return after


def _without(rule: Rule, old: Active, now_ms: int) -> Active | None:
    """Return what becomes of an alert whose condition does not hold; None when it is forgotten."""
    if old.state is State.PENDING:
        return None
    if old.state is State.RESOLVED:
        return old if now_ms - old.resolved_ms < RESOLVED_KEPT_MS else None
    kept = old.kept_ms or now_ms
    if rule.keep_firing_for and now_ms - kept < rule.keep_firing_for * 1000:
        return replace(old, kept_ms=kept)
    return replace(old, state=State.RESOLVED, resolved_ms=now_ms, kept_ms=0, acknowledged=None)
