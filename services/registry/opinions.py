"""What an instance's health comes to when several have a say: the worst word wins, and all of them are shown. Pure."""

from __future__ import annotations

from collections.abc import Collection

from mesh.api.registry.v1 import (
    HEALTH_DRAINING,
    HEALTH_NOT_SERVING,
    HEALTH_SERVING,
    HEALTH_STARTING,
    HEALTH_UNSPECIFIED,
    OPINION_SOURCE_CHECK,
    OPINION_SOURCE_INSTANCE,
    OPINION_SOURCE_PROTECTION,
    Health,
    Instance,
    Opinion,
)

NOT_CHECKED = "it has not been checked yet"
KEPT = "its lease is over, and it is kept: too many of its service expired at once"

# From best to worst. DRAINING is last: who leaves does not come back by being well.
_BADNESS: dict[Health.ValueType, int] = {
    HEALTH_UNSPECIFIED: 0,
    HEALTH_SERVING: 0,
    HEALTH_STARTING: 1,
    HEALTH_NOT_SERVING: 2,
    HEALTH_DRAINING: 3,
}


def badness(health: Health.ValueType) -> int:
    return _BADNESS[health]


def joined(own: Instance, others: Collection[Opinion], revision: int) -> Instance:
    """Return the instance as others see it: its own word and those of `others`, the latest of them at `revision`.

    An instance that only speaks for itself is returned as it is.
    """
    words = list(others)
    checked = next((word for word in words if word.source == OPINION_SOURCE_CHECK), None)
    if checked is None and own.HasField("check"):
        checked = Opinion(source=OPINION_SOURCE_CHECK, health=HEALTH_STARTING, reason=NOT_CHECKED)
        words.append(checked)
    if own.protected:
        words.append(Opinion(source=OPINION_SOURCE_PROTECTION, health=HEALTH_SERVING, reason=KEPT))
    if not words:
        return own
    words.insert(0, Opinion(source=OPINION_SOURCE_INSTANCE, health=own.health, reason=own.health_reason))
    worst = max(words, key=lambda word: _BADNESS[word.health])  # of equals the first: its own
    found = Instance()
    found.CopyFrom(own)
    found.health, found.health_reason = worst.health, worst.reason
    found.opinions.extend(sorted(words, key=lambda word: word.source))
    found.mod_revision = max(own.mod_revision, revision)
    if checked is not None and checked.health == HEALTH_SERVING:
        found.serving_since_ms = max(own.serving_since_ms, checked.since_ms)
    return found
