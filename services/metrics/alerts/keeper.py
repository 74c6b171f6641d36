"""The keeper of alerts: evaluates the rules, steps their states, writes them down, and knows what is silenced."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from mesh.errors import MeshError
from services.metrics.alerts import records, rules, states
from services.metrics.alerts.evaluation import Outcome, evaluate_rule
from services.metrics.alerts.records import ALERTS, RULES, SILENCES, Kept, Records, Silence
from services.metrics.alerts.rules import Group, Rule
from services.metrics.alerts.states import Acknowledged, Active, State
from services.metrics.errors import InvalidError, NotFoundError
from services.metrics.promql.labels import Labels, get
from services.metrics.promql.matchers import Matcher
from services.metrics.promql.parse import parse_selector
from services.metrics.query import Queries
from services.metrics.recording import Recorder
from services.metrics.store import MetricStore

DEFAULT_FILE = "default"
# Ended silences are shown for so long.
SILENCE_KEPT_MS = 24 * 3_600_000
MAX_SILENCES = 1000
MAX_ALERTS = 10_000
_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")

_log = logging.getLogger(__name__)

RuleKey = tuple[str, str, str]


@dataclass(slots=True)
class Health:
    """How the last evaluation of a rule went."""

    # "unknown", "ok" or "err".
    health: str = "unknown"
    error: str = ""
    at_ms: int = 0
    seconds: float = 0.0


@dataclass(slots=True)
class GroupHealth:
    at_ms: int = 0
    seconds: float = 0.0
    rules: list[Health] = field(default_factory=list)


def default_rules() -> str:
    """Return the YAML of the rules that ship."""
    return Path(__file__).with_name("default_rules.yaml").read_text()


class Keeper:
    """Use as `async with Keeper(...)`; `run` is its task."""

    def __init__(self, store: MetricStore, queries: Queries, kept: Records) -> None:
        self._store = store
        self._queries = queries
        self._records = kept
        self._recorder = Recorder(store)
        self._groups: tuple[Group, ...] = ()
        self._read: dict[str, bytes] | None = None
        self.health: dict[tuple[str, str], GroupHealth] = {}
        # What the present evaluation came to, newer than the records: values change without being written each time.
        self._values: dict[str, tuple[float, Mapping[str, str]]] = {}
        self._write_lock = asyncio.Lock()
        # Replaced whenever an alert, a silence or an acknowledgement has changed.
        self.changed = asyncio.Event()

    async def run(self) -> None:
        """Evaluate every group at its interval, without end."""
        tasks: dict[Group, asyncio.Task[None]] = {}
        try:
            while True:
                changed = self._records.changed
                wanted = set(self.groups())
                for group in [group for group in tasks if group not in wanted]:
                    tasks.pop(group).cancel()
                for group in wanted - tasks.keys():
                    tasks[group] = asyncio.create_task(self._keep(group))
                await self._drop_orphans(wanted)
                self._wake()
                await changed.wait()
        finally:
            for task in tasks.values():
                task.cancel()
            await asyncio.gather(*tasks.values(), return_exceptions=True)

    def groups(self) -> tuple[Group, ...]:
        """Return all groups that are in force."""
        files = dict(self._records.under(RULES))
        if files != self._read:
            texts = {DEFAULT_FILE: default_rules(), **{name: value.decode() for name, value in files.items()}}
            self._groups = tuple(group for name in sorted(texts) for group in rules.read(name, texts[name]))
            self._read = files
        return self._groups

    def alerts(self) -> list[Kept]:
        """Return the alerts that are pending, firing, or were resolved a short time ago."""
        found = []
        for name, value in sorted(self._records.under(ALERTS).items()):
            kept = records.decode(value)
            if kept.active.state is not State.RESOLVED and name in self._values:
                value_now, annotations = self._values[name]
                kept = replace(kept, active=replace(kept.active, value=value_now, annotations=annotations))
            found.append(kept)
        return found

    def silences(self) -> list[Silence]:
        return [Silence.decode(name, value) for name, value in sorted(self._records.under(SILENCES).items())]

    def silenced_by(self, labels: Labels, now_ms: int | None = None) -> list[str]:
        """Return the ids of the silences that keep an alert quiet now."""
        now = self._store.now_ms() if now_ms is None else now_ms
        return [
            silence.id
            for silence in self.silences()
            if silence.starts_ms <= now < silence.ends_ms
            and all(one.test()(get(labels, one.name)) for one in _matchers(silence.matchers))
        ]

    async def put_rules(self, file: str, text: str) -> None:
        """Put a file of rules in the place of the one of that name.

        Raises:
            InvalidError: the name or the rules are not valid.

        """
        if not _FILE.fullmatch(file):
            raise InvalidError(f"file: '{file[:100]}' cannot name one: 1-100 characters of A-Z a-z 0-9 . _ -")
        rules.read(file, text)
        empty = not text.strip()
        await self._records.write({RULES + file: None if empty and file != DEFAULT_FILE else text.encode()})

    async def silence(self, silence: Silence) -> str:
        """Keep a silence, with a new id if it has none; return the id.

        Raises:
            InvalidError: its matchers or times make no sense.
            NotFoundError: there is none with its id.

        """
        now = self._store.now_ms()
        known = {one.id: one for one in self.silences()}
        if silence.id and silence.id not in known:
            raise NotFoundError(f"there is no silence '{silence.id[:100]}'")
        if not silence.id and not silence.starts_ms <= now < silence.ends_ms and silence.ends_ms <= now:
            raise InvalidError("ends_at: a silence that has ended already silences nothing")
        if not silence.id and len(known) >= MAX_SILENCES:
            raise InvalidError(f"there are {MAX_SILENCES} silences already: end some")
        _matchers(silence.matchers)
        made = silence if silence.id else replace(silence, id=secrets.token_hex(4))
        old = [one.id for one in known.values() if one.ends_ms < now - SILENCE_KEPT_MS]
        await self._records.write({SILENCES + made.id: made.encode(), **{SILENCES + name: None for name in old}})
        self._wake()
        return made.id

    async def acknowledge(self, alert: str, author: str, comment: str) -> int:
        """Note that somebody looks after alerts: one by its fingerprint, or all of a name; return how many.

        Raises:
            NotFoundError: no such alert is pending or firing.

        """
        async with self._write_lock:
            chosen = [kept for kept in self.alerts() if _is_meant(kept, alert)]
            if not chosen:
                raise NotFoundError(f"no alert '{alert[:100]}' is pending or firing: see mesh alerts")
            ack = Acknowledged(author, comment, self._store.now_ms())
            await self._records.write(
                {
                    ALERTS + kept.fingerprint: records.encode(
                        replace(kept, active=replace(kept.active, acknowledged=ack))
                    )
                    for kept in chosen
                }
            )
        self._wake()
        return len(chosen)

    async def mark_sent(self, receiver: str, sent: Mapping[str, tuple[str, int]]) -> None:
        """Note what was delivered to a receiver: by fingerprint, which state and when."""
        async with self._write_lock:
            changes: dict[str, bytes | None] = {}
            for name, what in sent.items():
                value = self._records.values.get(ALERTS + name)
                if value is not None:
                    kept = records.decode(value)
                    changes[ALERTS + name] = records.encode(replace(kept, sent={**kept.sent, receiver: what}))
            await self._records.write(changes)

    async def _keep(self, group: Group) -> None:
        """Evaluate one group for ever, first after one interval: until then there are samples again."""
        loop = asyncio.get_running_loop()
        interval = group.interval or self._store.options.rule_interval
        due = loop.time() + interval
        while True:
            await asyncio.sleep(due - loop.time())
            try:
                await self.evaluate(group)
            except MeshError as error:
                _log.warning("the rules of %s/%s could not be evaluated: %s", group.file, group.name, error)
            due = max(due + interval, loop.time())

    async def evaluate(self, group: Group, now_ms: int | None = None) -> None:
        """Evaluate all rules of a group once."""
        began = time.perf_counter()
        now = self._store.now_ms() if now_ms is None else now_ms
        health = self.health.setdefault((group.file, group.name), GroupHealth())
        health.rules = [*health.rules, *(Health() for _ in group.rules)][: len(group.rules)]
        for rule, one in zip(group.rules, health.rules, strict=True):
            at = time.perf_counter()
            try:
                await self._evaluate(group, rule, now)
                one.health, one.error = "ok", ""
            except MeshError as error:
                # The alerts stay as they are: not to know is no reason to resolve them.
                one.health, one.error = "err", str(error)
            one.at_ms, one.seconds = now, time.perf_counter() - at
        health.at_ms, health.seconds = now, time.perf_counter() - began

    async def _evaluate(self, group: Group, rule: Rule, now: int) -> None:
        at = now - round(group.query_offset * 1000)
        outcome = evaluate_rule(rule, await self._queries.instant(rule.expr, at), group.limit)
        if not rule.alerting:
            await self._recorder.record((group.file, group.name, rule.id), outcome.series, at)
            return
        key = (group.file, group.name, rule.id)
        async with self._write_lock:
            before, after = await self._step(key, rule, outcome, now)
        shown, ended = (dict(Recorder.alert_series(rule.name, alerts)) for alerts in (after, before))
        await self._recorder.record(key, shown, at, ended)

    async def _step(
        self, key: RuleKey, rule: Rule, outcome: Outcome, now: int
    ) -> tuple[Iterable[Active], Iterable[Active]]:
        """Step the states of a rule's alerts, and write down those that changed; return them before and after."""
        kept = {one.active.labels: one for one in self.alerts() if one.rule == key}
        before = {labels: one.active for labels, one in kept.items()}
        after = states.step(rule, before, outcome.holds, now)
        if len(after) > MAX_ALERTS:
            raise InvalidError(f"the rule {rule.name} comes to more than {MAX_ALERTS} alerts")
        changes: dict[str, bytes | None] = {}
        for labels, active in after.items():
            name = records.fingerprint(labels, key)
            self._values[name] = active.value, active.annotations
            old = before.get(labels)
            if old is None or _key(old) != _key(active):
                fresh = old is None or old.active_ms != active.active_ms
                changes[ALERTS + name] = records.encode(Kept(key, active, {} if fresh else kept[labels].sent))
        for labels in before.keys() - after.keys():
            name = records.fingerprint(labels, key)
            changes[ALERTS + name] = None
            self._values.pop(name, None)
        if changes:
            await self._records.write(changes)
            self._wake()
        return before.values(), after.values()

    async def _drop_orphans(self, groups: set[Group]) -> None:
        """Forget the alerts of rules that are gone."""
        there = {(group.file, group.name, rule.id) for group in groups for rule in group.rules}
        gone = {ALERTS + one.fingerprint: None for one in self.alerts() if one.rule not in there}
        if gone:
            with contextlib.suppress(MeshError):  # the next change of the rules does it
                await self._records.write(gone)

    def _wake(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()


def _is_meant(kept: Kept, alert: str) -> bool:
    """Tell whether `alert` names this one, while it is pending or firing: its name, or the beginning of its print."""
    if kept.active.state is State.RESOLVED:
        return False
    return get(kept.active.labels, "alertname") == alert or (len(alert) >= 4 and kept.fingerprint.startswith(alert))


def _key(active: Active) -> tuple[object, ...]:
    """Return what of an alert is worth a write."""
    return (active.state, active.active_ms, active.fired_ms, active.resolved_ms, active.kept_ms, active.acknowledged)


def _matchers(texts: Sequence[str]) -> tuple[Matcher, ...]:
    """Return the matchers of a silence.

    Raises:
        InvalidError: they are none.

    """
    try:
        selector = parse_selector(f"{{{','.join(texts)}}}")
    except MeshError as error:
        raise InvalidError(f'matchers: {error}; write them like alertname="InstanceDown"') from error
    return selector.matchers[0]
