"""Gray releases: which instances get the new release before the others do. Pure."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from services.config.errors import InvalidError
from services.config.layers import Target

MAX_LABELS = 16
MAX_LABEL = 128
# Labels that are the instance's own and not its to choose.
_OWN = ("instance", "service", "environment")


@dataclass(frozen=True, slots=True)
class Rule:
    """Selects by a share of all instances, by labels, or by both at once."""

    percent: float | None = None
    labels: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        """Return how a sentence speaks of it."""
        parts = [f"{key}={value}" for key, value in sorted(self.labels.items())]
        return " ".join(([f"{self.percent:g} %"] if self.percent is not None else []) + parts)


def check(rule: Rule) -> Rule:
    """Return the rule.

    Raises:
        InvalidError: it selects nothing or makes no sense.

    """
    if rule.percent is None and not rule.labels:
        raise InvalidError("gray_rule", "must have percent, labels or both")
    if rule.percent is not None and not (math.isfinite(rule.percent) and 0 < rule.percent <= 100):
        raise InvalidError("gray_rule.percent", f"{rule.percent:g} must be more than 0 and at most 100")
    if len(rule.labels) > MAX_LABELS:
        raise InvalidError("gray_rule.labels", f"there are {len(rule.labels)}, it must be at most {MAX_LABELS}")
    for key, value in rule.labels.items():
        if not 1 <= len(key) <= MAX_LABEL or len(value) > MAX_LABEL:
            raise InvalidError("gray_rule.labels", f"a label and its value have at most {MAX_LABEL} characters")
    return rule


def selects(rule: Rule, target: Target, salt: str) -> bool:
    """Tell whether the target is among those that the rule selects.

    `salt` stays the same while one release is rolled out: whoever is in at some percent is in at any higher one. Who
    is no instance, such as a person that asks what a service gets, is in only by labels.
    """
    own = dict(zip(_OWN, (target.instance, target.service, target.environment), strict=True))
    known = {**target.labels, **own}
    if any(known.get(key) != value for key, value in rule.labels.items()):
        return False
    if rule.percent is None or rule.percent >= 100:
        return True
    return bool(target.instance) and place(target, salt) < rule.percent


def place(target: Target, salt: str) -> float:
    """Return where an instance stands among all, from 0 up to 100: spread evenly, and the same everywhere."""
    digest = hashlib.sha256(f"{salt}/{target.service}/{target.instance}".encode()).digest()
    return int.from_bytes(digest[:6], "big") * 100 / 2**48
