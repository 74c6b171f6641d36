"""How `mesh config` shows things to people. Pure."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator
from typing import Any

from mesh.api.config import v1
from mesh.cli.output import table

NOTHING = "-"
_LONGEST_VALUE = 60


def layer(given: v1.Layer) -> str:
    if given.instance:
        return f"instance {given.service}/{given.instance}"
    if given.service:
        return f"service {given.service}" + (f" in {given.environment}" if given.environment else "")
    return f"environment {given.environment}" if given.environment else "defaults"


def when(time_unix_ms: int) -> str:
    """Return a time as the person's clock has it."""
    if not time_unix_ms:
        return NOTHING
    moment = dt.datetime.fromtimestamp(time_unix_ms / 1000, dt.UTC).astimezone()
    return moment.strftime("%Y-%m-%d %H:%M:%S")


def rule(given: v1.GrayRule) -> str:
    parts = [f"{given.percent:g} %"] if given.percent else []
    return " ".join([*parts, *(f"{key}={value}" for key, value in sorted(given.labels.items()))])


def value(text: str) -> str:
    """Return a JSON value as a table has it: secrets masked in a word, long ones cut."""
    masked = _masked(json.loads(text))
    shown = json.dumps(masked, ensure_ascii=False)
    return shown if len(shown) <= _LONGEST_VALUE else f"{shown[:_LONGEST_VALUE]}..."


def effective(reply: v1.GetEffectiveResponse) -> list[str]:
    """Return a line for every value: what, and where from."""
    content = json.loads(reply.effective.content_json)
    rows = [
        (origin.path, value(json.dumps(_at(content, origin.path))), layer(origin.layer), str(origin.release))
        for origin in reply.origins
    ]
    head = f"release {reply.effective.release}, checksum {reply.effective.checksum[:12]}"
    return [*table(("PATH", "VALUE", "LAYER", "RELEASE"), rows), "", head] if rows else [f"{head}: empty"]


def history(reply: v1.HistoryResponse, application: v1.Application) -> list[str]:
    rows = [
        (
            str(one.number),
            _role(one, application),
            when(one.time_unix_ms),
            one.author,
            ", ".join(map(layer, one.changed_layers)) or NOTHING,
            f"{one.comment} {f'(rolled back to {one.rollback_of})' if one.rollback_of else ''}".strip() or NOTHING,
        )
        for one in reply.releases
    ]
    return table(("RELEASE", "IS", "WHEN", "WHO", "CHANGED", "COMMENT"), rows) if rows else ["There is no release yet."]


def diff(reply: v1.DiffResponse) -> list[str]:
    before = f"release {reply.from_release}" if reply.from_release else "nothing"
    after = f"release {reply.to_release}" if reply.to_release else "the draft"
    lines = [f"{before} -> {after}" + ("" if reply.layers else ": no difference")]
    for one in reply.layers:
        lines += ["", layer(one.layer)]
        for change in one.values:
            lines += [f"  - {change.path}: {value(change.before_json)}"] if change.HasField("before_json") else []
            lines += [f"  + {change.path}: {value(change.after_json)}"] if change.HasField("after_json") else []
    return lines


def applications(reply: v1.ListApplicationsResponse) -> list[str]:
    rows = [
        (
            one.name,
            str(one.stable_release or NOTHING),
            f"{one.gray_release} ({rule(one.gray_rule)})" if one.gray_release else NOTHING,
            "changed" if one.changed else NOTHING,
            "yes" if one.schema_mod_revision else NOTHING,
        )
        for one in reply.applications
    ]
    head = ("APPLICATION", "RELEASE", "GRAY", "DRAFT", "SCHEMA")
    return table(head, rows) if rows else ["There is no application yet."]


def status(application: v1.Application, reply: v1.ListAppliedResponse) -> list[str]:
    """Return what is out, and a line for every instance."""
    return [_summary(application, reply), "", *_instances(reply)]


def audit(reply: v1.ListAuditResponse) -> list[str]:
    rows = [
        (
            when(one.time_unix_ms),
            one.author,
            v1.Action.Name(one.action).removeprefix("ACTION_").lower().replace("_", " "),
            one.application,
            _subject(one),
            " ".join(_what(one)) or NOTHING,
        )
        for one in reply.entries
    ]
    return table(("WHEN", "WHO", "DID", "APPLICATION", "TO", "WHAT"), rows) if rows else ["Nothing was changed yet."]


def _instances(reply: v1.ListAppliedResponse) -> list[str]:
    rows = [
        (
            one.service,
            one.instance,
            one.environment or NOTHING,
            "live" if one.live else "watching" if one.watching else "gone",
            str(one.wanted_release or NOTHING),
            str(one.release or NOTHING),
            v1.AppliedState.Name(one.state).removeprefix("APPLIED_STATE_").replace("UNSPECIFIED", "NOT REPORTED"),
            "LAGS" if one.lags else NOTHING,
            one.error or NOTHING,
        )
        for one in reply.applied
    ]
    head = ("SERVICE", "INSTANCE", "ENVIRONMENT", "IS", "WANTED", "RELEASE", "STATE", "LAG", "ERROR")
    return table(head, rows) if rows else ["No such instance is known."]


def _summary(application: v1.Application, reply: v1.ListAppliedResponse) -> str:
    parts = [f"release {application.stable_release}" if application.stable_release else "no release yet"]
    if application.gray_release:
        parts.append(f"gray release {application.gray_release} for {rule(application.gray_rule)}")
    if application.changed:
        parts.append("the draft has changes")
    parts.append(f"{reply.lagging_instances} of {reply.live_instances} live instances lag")
    return f"{application.name}: " + ", ".join(parts)


def _role(one: v1.Release, application: v1.Application) -> str:
    if one.number == application.stable_release:
        return "stable"
    return "gray" if one.number == application.gray_release else NOTHING


def _subject(one: v1.AuditEntry) -> str:
    if one.HasField("layer"):
        return layer(one.layer)
    return f"release {one.release}" if one.release else NOTHING


def _what(one: v1.AuditEntry) -> Iterator[str]:
    if one.HasField("gray_rule"):
        yield f"for {rule(one.gray_rule)}"
    if one.comment:
        yield one.comment
    if one.changed_paths:
        more = len(one.changed_paths) - 5
        yield ", ".join(one.changed_paths[:5]) + (f" and {more} more" if more > 0 else "")


def _masked(found: Any) -> Any:
    if isinstance(found, dict):
        return "********" if found.keys() == {"$masked"} else {key: _masked(inner) for key, inner in found.items()}
    return [_masked(inner) for inner in found] if isinstance(found, list) else found


def _at(content: Any, path: str) -> Any:
    from mesh.config.paths import parse_path

    for step in parse_path(path):
        content = content[step]
    return content
