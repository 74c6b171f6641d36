"""`label_replace` and `label_join`."""

from __future__ import annotations

import re

from services.metrics.promql.data import Vector, merged
from services.metrics.promql.errors import EvaluationError
from services.metrics.promql.labels import get, replaced
from services.metrics.promql.matchers import compiled

_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
# As Go's regexp.Expand has them: $1, $name, ${1}, ${name} and $$.
_REFERENCE = re.compile(r"\$(?:\$|\{(\w+)\}|(\w+))")
# A label that grows from other labels must not grow for ever.
MAX_VALUE = 64 * 1024


def label_replace(vector: Vector, target: str, replacement: str, source: str, pattern: str) -> Vector:
    """Set `target` to the replacement where the source label fits the pattern as a whole."""
    expression = compiled(pattern)
    _check(target, "label_replace")
    labels = []
    for one in vector.labels:
        found = expression.fullmatch(get(one, source))
        if found is None:
            labels.append(one)
            continue

        def group(reference: re.Match[str], found: re.Match[str] = found) -> str:
            name = reference[1] or reference[2]
            if name is None:
                return "$"
            try:
                return found[int(name) if name.isdigit() else name] or ""
            except (IndexError, KeyError):
                return ""

        labels.append(replaced(one, [(target, _bounded(_REFERENCE.sub(group, replacement)))]))
    return merged(Vector(labels, vector.values, vector.present))


def label_join(vector: Vector, target: str, separator: str, sources: list[str]) -> Vector:
    """Set `target` to the values of the source labels, joined."""
    _check(target, "label_join")
    for source in sources:
        _check(source, "label_join")
    labels = [
        replaced(one, [(target, _bounded(separator.join(get(one, source) for source in sources)))])
        for one in vector.labels
    ]
    return merged(Vector(labels, vector.values, vector.present))


def _check(name: str, function: str) -> None:
    if not _NAME.fullmatch(name):
        raise EvaluationError(f"invalid label name in {function}(): '{name[:100]}'")


def _bounded(value: str) -> str:
    if len(value) > MAX_VALUE:
        raise EvaluationError(f"a label would have a value of {len(value)} characters; at most {MAX_VALUE} are served")
    return value
