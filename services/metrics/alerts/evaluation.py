"""From the answer of a rule's query to alerts or series. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from services.metrics.alerts.rules import Rule
from services.metrics.alerts.states import Holds
from services.metrics.errors import InvalidError
from services.metrics.promql.labels import NAME, Labels, from_mapping
from services.metrics.query import Answer


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a rule came to."""

    # By the labels of the alert.
    holds: Mapping[Labels, Holds]
    # Of a recording rule.
    series: Mapping[Labels, float]


def evaluate_rule(rule: Rule, answer: Answer, limit: int) -> Outcome:
    """Return what the answer means for the rule.

    Raises:
        InvalidError: it has more elements than the group's limit, or two become one by the rule's labels.

    """
    if limit and len(answer.series) > limit:
        raise InvalidError(f"the rule {rule.name} comes to {len(answer.series)} elements, its group's limit is {limit}")
    holds: dict[Labels, Holds] = {}
    series: dict[Labels, float] = {}
    for one in answer.series:
        value = float(one.values[-1])
        bare = {name: text for name, text in one.labels if name != NAME}
        labels = {**bare, **{name: template.render(bare, value) for name, template in rule.labels.items()}}
        name = "alertname" if rule.alerting else NAME
        found = from_mapping({**labels, name: rule.name})
        if found in holds or found in series:
            raise InvalidError(f"the rule {rule.name} gives two elements with the same labels: see the rule's labels")
        if rule.alerting:
            annotations = {key: template.render(bare, value) for key, template in rule.annotations.items()}
            holds[found] = Holds(value, annotations)
        else:
            series[found] = value
    return Outcome(holds, series)
