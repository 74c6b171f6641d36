"""Groups of rules, in Prometheus' YAML. Pure."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from services.metrics.alerts import durations
from services.metrics.alerts.template import Template, compile_template
from services.metrics.errors import InvalidError
from services.metrics.promql.errors import PromqlError
from services.metrics.promql.parse import parse
from services.metrics.promql.tree import Kind, kind

MAX_YAML = 1 << 20
MAX_GROUPS = 200
MAX_RULES = 2000
MAX_DEPTH = 20
# libyaml's, where PyYAML has it: its own takes minutes for what is nested on purpose.
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
_METRIC = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_GROUP_KEYS = frozenset({"name", "interval", "limit", "query_offset", "labels", "rules"})
_ALERT_KEYS = frozenset({"alert", "expr", "for", "keep_firing_for", "labels", "annotations"})
_RECORD_KEYS = frozenset({"record", "expr", "labels"})


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule; durations in seconds."""

    # Of the alert, or of the series that is made.
    name: str
    alerting: bool
    expr: str
    for_: float = 0.0
    keep_firing_for: float = 0.0
    labels: Mapping[str, Template] = field(default_factory=dict)
    annotations: Mapping[str, Template] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """What tells it from others of its group: several may have one name, with different queries."""
        return f"{self.name}/{hashlib.blake2b(self.expr.encode(), digest_size=4).hexdigest()}"


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """Rules that are evaluated together, one after the other."""

    file: str
    name: str
    rules: tuple[Rule, ...]
    # None is the default.
    interval: float | None = None
    # Alerts or series that one rule may come to; 0 is no limit.
    limit: int = 0
    # How far in the past queries are evaluated.
    query_offset: float = 0.0


def read(file: str, text: str) -> tuple[Group, ...]:
    """Return the groups of a YAML file.

    Raises:
        InvalidError: something is wrong; the message says where.

    """
    if len(text) > MAX_YAML:
        raise InvalidError(f"{file}: it is longer than {MAX_YAML} bytes")
    document = _load(file, text)
    if document is None:
        return ()
    top = _mapping(document, file, {"groups"})
    groups = tuple(_group(file, one, f"{file}: groups[{i}]") for i, one in enumerate(_list(top, "groups", file)))
    names = [group.name for group in groups]
    if repeated := {name for name in names if names.count(name) > 1}:
        raise InvalidError(f"{file}: the group '{min(repeated)}' comes twice")
    if len(groups) > MAX_GROUPS or sum(len(group.rules) for group in groups) > MAX_RULES:
        raise InvalidError(f"{file}: there may be {MAX_GROUPS} groups and {MAX_RULES} rules")
    return groups


def _load(file: str, text: str) -> Any:
    try:
        depth = 0
        for event in yaml.parse(text, Loader=_LOADER):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_DEPTH:
                raise InvalidError(f"{file}: it is no YAML of rules: it nests deeper than {MAX_DEPTH}")
            if isinstance(event, yaml.AliasEvent):
                line = event.start_mark.line + 1 if event.start_mark is not None else 0
                raise InvalidError(f"{file}: line {line}: aliases are not taken")
        return yaml.load(text, Loader=_LOADER)  # noqa: S506 - it is the safe one
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InvalidError(f"{file}: it is no YAML: {' '.join(str(error).split())[:300]}") from error


def _group(file: str, given: Any, where: str) -> Group:
    found = _mapping(given, where, _GROUP_KEYS)
    name = _text(found, "name", where)
    common = _templates(found, "labels", where)
    interval = durations.seconds(found["interval"], f"{where}.interval") if "interval" in found else None
    if interval is not None and interval < 1:
        raise InvalidError(f"{where}.interval: it must be at least 1s")
    limit = found.get("limit", 0)
    if not isinstance(limit, int) or isinstance(limit, bool) or limit < 0:
        raise InvalidError(f"{where}.limit: it is not a whole number from 0 on")
    offset = durations.seconds(found.get("query_offset", 0), f"{where}.query_offset")
    rules = [_rule(one, f"{where}.rules[{i}]", common) for i, one in enumerate(_list(found, "rules", where))]
    return Group(file, name, tuple(rules), interval, limit, offset)


def _rule(given: Any, where: str, common: Mapping[str, Template]) -> Rule:
    found = _mapping(given, where, _ALERT_KEYS | _RECORD_KEYS)
    alerting = "alert" in found
    if alerting == ("record" in found):
        raise InvalidError(f"{where}: it needs either 'alert' or 'record'")
    _mapping(found, where, _ALERT_KEYS if alerting else _RECORD_KEYS)
    name = _text(found, "alert" if alerting else "record", where)
    if not alerting and not _METRIC.fullmatch(name):
        raise InvalidError(f"{where}.record: '{name[:100]}' cannot name a metric")
    expr = _text(found, "expr", where)
    try:
        what = kind(parse(expr))
    except PromqlError as error:
        raise InvalidError(f"{where}.expr: {error}") from error
    if what not in {Kind.SCALAR, Kind.VECTOR}:
        raise InvalidError(f"{where}.expr: it gives a {what.value}, not a vector or a scalar")
    return Rule(
        name,
        alerting,
        expr,
        durations.seconds(found.get("for", 0), f"{where}.for"),
        durations.seconds(found.get("keep_firing_for", 0), f"{where}.keep_firing_for"),
        {**common, **_templates(found, "labels", where)},
        _templates(found, "annotations", where),
    )


def _templates(found: Mapping[str, Any], key: str, where: str) -> dict[str, Template]:
    given = found.get(key) or {}
    if not isinstance(given, dict) or len(given) > 64:
        raise InvalidError(f"{where}.{key}: it is not a mapping of at most 64 entries")
    made = {}
    for name, text in given.items():
        if not isinstance(name, str) or not _LABEL.fullmatch(name):
            raise InvalidError(f"{where}.{key}: '{str(name)[:100]}' cannot name a label")
        if not isinstance(text, str | int | float):
            raise InvalidError(f"{where}.{key}.{name}: it is not text")
        made[name] = compile_template(str(text), f"{where}.{key}.{name}")
    return made


def _mapping(given: Any, where: str, keys: Iterable[str]) -> dict[str, Any]:
    if not isinstance(given, dict):
        raise InvalidError(f"{where}: it is not a mapping")
    for key in given:
        if key not in set(keys):
            raise InvalidError(f"{where}: it has no '{str(key)[:100]}'; known are {', '.join(sorted(keys))}")
    return given


def _list(found: Mapping[str, Any], key: str, where: str) -> list[Any]:
    given = found.get(key) or []
    if not isinstance(given, list):
        raise InvalidError(f"{where}.{key}: it is not a list")
    return given


def _text(found: Mapping[str, Any], key: str, where: str) -> str:
    given = found.get(key)
    if isinstance(given, int | float) and not isinstance(given, bool) and key == "expr":
        given = str(given)
    if not isinstance(given, str) or not given.strip():
        raise InvalidError(f"{where}.{key}: it is missing")
    if len(given) > 32 * 1024:
        raise InvalidError(f"{where}.{key}: it is too long")
    return given.strip()
