"""Between the domain and the messages of `mesh.metrics.v1`. Pure."""

from __future__ import annotations

from mesh.api.metrics import v1
from services.metrics.alerts.keeper import GroupHealth, Health, Keeper
from services.metrics.alerts.records import Kept, Silence
from services.metrics.alerts.rules import Group, Rule
from services.metrics.alerts.states import State
from services.metrics.pull.scraper import State as ScrapeState
from services.metrics.query import Answer

_WORST = ("inactive", State.PENDING.value, State.FIRING.value)


def answer(found: Answer) -> v1.Answer:
    made = v1.Answer(type=found.kind.value, text=found.text)
    if found.text:
        return made
    for one in found.series:
        series = made.series.add()
        series.labels.update(one.labels)
        series.times_ms.extend(one.ts.tolist())
        series.values.extend(one.values.tolist())
    return made


def target(state: ScrapeState) -> v1.Target:
    return v1.Target(
        job=state.target.job,
        instance=state.target.instance,
        url=state.target.url,
        health=state.health,
        error=state.error,
        last_scrape_ms=state.at_ms,
        last_duration=state.seconds,
        series=len(state.series),
    )


def rule_states(keeper: Keeper) -> dict[tuple[str, str, str], str]:
    """Return the worst state of each rule's alerts, for those that have any."""
    worst: dict[tuple[str, str, str], str] = {}
    for kept in keeper.alerts():
        state = kept.active.state.value
        if state in _WORST and _WORST.index(state) > _WORST.index(worst.get(kept.rule, "inactive")):
            worst[kept.rule] = state
    return worst


def group(found: Group, health: GroupHealth, states: dict[tuple[str, str, str], str], interval: float) -> v1.RuleGroup:
    rules = [*health.rules, *(Health() for _ in found.rules)]
    return v1.RuleGroup(
        file=found.file,
        name=found.name,
        interval=found.interval or interval,
        rules=[
            _rule(rule, one, states.get((found.file, found.name, rule.id), "inactive"))
            for rule, one in zip(found.rules, rules, strict=False)
        ],
        last_evaluation_ms=health.at_ms,
        evaluation_seconds=health.seconds,
    )


def _rule(rule: Rule, health: Health, state: str) -> v1.Rule:
    return v1.Rule(
        name=rule.name,
        alerting=rule.alerting,
        query=rule.expr,
        health=health.health,
        error=health.error,
        for_seconds=rule.for_,
        keep_firing_for_seconds=rule.keep_firing_for,
        labels={name: template.source for name, template in rule.labels.items()},
        annotations={name: template.source for name, template in rule.annotations.items()},
        state=state if rule.alerting else "",
    )


def alert(kept: Kept, silenced_by: list[str]) -> v1.Alert:
    active, ack = kept.active, kept.active.acknowledged
    made = v1.Alert(
        fingerprint=kept.fingerprint,
        labels=dict(active.labels),
        annotations=active.annotations,
        state=active.state.value,
        value=active.value,
        active_at_ms=active.active_ms,
        fired_at_ms=active.fired_ms,
        resolved_at_ms=active.resolved_ms,
        silenced_by=silenced_by,
    )
    if ack is not None:
        made.acknowledgement.CopyFrom(v1.Acknowledgement(author=ack.author, comment=ack.comment, at_ms=ack.at_ms))
    return made


def silence(found: Silence) -> v1.SilenceRequest:
    return v1.SilenceRequest(
        id=found.id,
        matchers=found.matchers,
        starts_at_ms=found.starts_ms,
        ends_at_ms=found.ends_ms,
        author=found.author,
        comment=found.comment,
    )
