"""`mesh alerts`: what is wrong now, and who knows of it."""

from __future__ import annotations

import getpass
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mesh.cli import arguments
from mesh.cli.metrics.asking import asking, moment, number, seconds
from mesh.cli.output import print_json, print_line, table

if TYPE_CHECKING:
    from mesh.api.metrics import v1
    from mesh.api.metrics.v1.metrics_pb2_grpc import MetricsAsyncStub
    from mesh.runtime import Process

TIMEOUT = 15.0

_Comment = Annotated[str, typer.Option("--comment", "-m", metavar="TEXT", help="Why, for others to read.")]


def add_to(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    alerts = typer.Typer(
        name="alerts",
        help="Alerts: what is pending, firing, or was resolved a short time ago; silences, acknowledgements and rules.",
        invoke_without_command=True,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    alerts.callback(
        epilog=arguments.examples(
            "mesh alerts",
            "mesh alerts --watch",
            "mesh alerts ack InstanceDown -m 'I am at it'",
            "mesh alerts silence 'job=\"orders\"' --for 2h -m 'moving house'",
            "mesh alerts rules put mine rules.yaml",
        )
    )(show)
    alerts.command("ack")(acknowledge)
    alerts.command("silence")(silence)
    alerts.command("silences")(silences)
    alerts.command("unsilence")(unsilence)
    rules = typer.Typer(
        name="rules",
        help="The rules that alerts come from: Prometheus' YAML, in files.",
        invoke_without_command=True,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    rules.callback()(show_rules)
    rules.command("put")(put_rules)
    alerts.add_typer(rules)
    app.add_typer(alerts)


def show(
    context: typer.Context,
    *,
    watch: Annotated[bool, typer.Option("--watch", help="Show them again whenever one changes.")] = False,
    control: arguments.Control = None,
    as_json: arguments.Json = False,
    debug: arguments.Debug = False,
) -> int:
    """Show the alerts: pending, firing, or resolved in the last 15 minutes."""
    if context.invoked_subcommand is not None:
        return 0

    async def ask(stub: MetricsAsyncStub, process: Process) -> None:
        from mesh.api.metrics import v1

        if not watch:
            found = (await stub.Alerts(v1.AlertsRequest(), timeout=TIMEOUT)).alerts
            _print(found, as_json=as_json)
            return
        await _watch(stub, process, as_json=as_json)

    return asking(ask, control, debug=debug)


async def _watch(stub: MetricsAsyncStub, process: Process, *, as_json: bool) -> None:
    import asyncio

    from mesh.api.metrics import v1

    call = stub.WatchAlerts(v1.WatchAlertsRequest())
    stopping = asyncio.ensure_future(process.stop.wait())
    stopping.add_done_callback(lambda _: call.cancel())
    last: object = None
    try:
        async for reply in call:
            shown = [
                (alert.fingerprint, alert.state, *alert.silenced_by, str(alert.acknowledgement))
                for alert in reply.alerts
            ]
            if shown != last:
                last = shown
                _print(reply.alerts, as_json=as_json, anew=True)
    except asyncio.CancelledError:
        if not process.stop.is_set():
            raise
    finally:
        stopping.cancel()


def acknowledge(
    *,
    alert: Annotated[str, typer.Argument(metavar="ALERT", help="The name of the alert, or its ID (see mesh alerts).")],
    comment: _Comment = "",
    control: arguments.Control = None,
    debug: arguments.Debug = False,
) -> int:
    """Say that you look after an alert: others see it, and it is not sent again until it is resolved."""

    async def ask(stub: MetricsAsyncStub, _: Process) -> None:
        from mesh.api.metrics import v1

        request = v1.AcknowledgeRequest(alert=alert, author=_me(), comment=comment)
        count = (await stub.Acknowledge(request, timeout=TIMEOUT)).acknowledged
        print_line(f"{count} alert{'' if count == 1 else 's'} acknowledged")

    return asking(ask, control, debug=debug)


def silence(
    *,
    matchers: Annotated[
        list[str], typer.Argument(metavar="MATCHER...", help="Which alerts: NAME=VALUE, !=, =~ or !~; all must fit.")
    ],
    length: Annotated[str, typer.Option("--for", metavar="TIME", help="How long: 30m, 2h, 1d.")] = "2h",
    comment: _Comment = "",
    control: arguments.Control = None,
    debug: arguments.Debug = False,
) -> int:
    """Keep alerts from being sent for a time."""
    wanted = [_matcher(text) for text in matchers]
    total = seconds(length, "--for")

    async def ask(stub: MetricsAsyncStub, _: Process) -> None:
        from mesh.api.metrics import v1

        now = time.time_ns() // 1_000_000
        ends = now + round(total * 1000)
        request = v1.SilenceRequest(matchers=wanted, starts_at_ms=now, ends_at_ms=ends, author=_me(), comment=comment)
        made = (await stub.Silence(request, timeout=TIMEOUT)).id
        print_line(f"silence {made}, until {moment(ends)}; end it with: mesh alerts unsilence {made}")

    return asking(ask, control, debug=debug)


def unsilence(
    *,
    name: Annotated[str, typer.Argument(metavar="ID", help="The silence (see mesh alerts silences).")],
    control: arguments.Control = None,
    debug: arguments.Debug = False,
) -> int:
    """End a silence."""

    async def ask(stub: MetricsAsyncStub, _: Process) -> None:
        from mesh.api.metrics import v1
        from mesh.errors import MeshError

        known = (await stub.ListSilences(v1.ListSilencesRequest(), timeout=TIMEOUT)).silences
        found = next((one for one in known if one.id == name), None)
        if found is None:
            raise MeshError(f"there is no silence '{name}': see mesh alerts silences")
        found.ends_at_ms = time.time_ns() // 1_000_000
        await stub.Silence(found, timeout=TIMEOUT)
        print_line(f"silence {name} has ended")

    return asking(ask, control, debug=debug)


def silences(
    *, control: arguments.Control = None, as_json: arguments.Json = False, debug: arguments.Debug = False
) -> int:
    """Show the silences, those that ended in the last day included."""

    async def ask(stub: MetricsAsyncStub, _: Process) -> None:
        from mesh.api.metrics import v1

        found = (await stub.ListSilences(v1.ListSilencesRequest(), timeout=TIMEOUT)).silences
        now = time.time_ns() // 1_000_000
        rows = [
            (
                one.id,
                "ended" if one.ends_at_ms <= now else "active" if one.starts_at_ms <= now else "to come",
                moment(one.ends_at_ms),
                one.author or "-",
                ", ".join(one.matchers),
                one.comment or "-",
            )
            for one in found
        ]
        head = ("ID", "STATE", "UNTIL", "AUTHOR", "MATCHERS", "COMMENT")
        if as_json:
            shown = [dict(zip(map(str.lower, head), row, strict=True)) for row in rows]
            # Times as those of alerts are: seconds since 1970.
            print_json([row | {"until": one.ends_at_ms / 1000} for row, one in zip(shown, found, strict=True)])
        else:
            print_line("\n".join(table(head, rows)) if rows else "nothing is silenced")

    return asking(ask, control, debug=debug)


def show_rules(
    context: typer.Context,
    *,
    control: arguments.Control = None,
    as_json: arguments.Json = False,
    debug: arguments.Debug = False,
) -> int:
    """Show the rules, and how their last evaluation went."""
    if context.invoked_subcommand is not None:
        return 0

    async def ask(stub: MetricsAsyncStub, _: Process) -> None:
        from mesh.api.metrics import v1

        groups = (await stub.Rules(v1.RulesRequest(), timeout=TIMEOUT)).groups
        if as_json:
            print_json([_rule(group, rule) for group in groups for rule in group.rules])
            return
        rows = [
            (group.file, group.name, rule.name, rule.state or "-", f"{rule.for_seconds:g}s", rule.error or rule.health)
            for group in groups
            for rule in group.rules
        ]
        print_line("\n".join(table(("FILE", "GROUP", "RULE", "STATE", "FOR", "HEALTH"), rows)) if rows else "no rules")

    return asking(ask, control, debug=debug)


def put_rules(
    *,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The name of the set; the mesh's own is default.")],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="YAML, as Prometheus takes it; - is standard input.")],
    control: arguments.Control = None,
    debug: arguments.Debug = False,
) -> int:
    """Put a set of rules in the place of the one of that name; an empty file removes it."""
    from mesh.errors import UsageError

    try:
        text = sys.stdin.read() if str(file) == "-" else file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise UsageError(f"the file {file} cannot be read ({reason})") from error

    async def ask(stub: MetricsAsyncStub, _: Process) -> None:
        from mesh.api.metrics import v1

        await stub.PutRules(v1.PutRulesRequest(file=name, yaml=text), timeout=TIMEOUT)
        print_line(f"the rules '{name}' are in force" if text.strip() else f"the rules '{name}' are gone")

    return asking(ask, control, debug=debug)


def _print(alerts: Iterable[v1.Alert], *, as_json: bool, anew: bool = False) -> None:
    found = sorted(alerts, key=lambda one: (_ORDER.index(one.state), one.labels["alertname"], one.fingerprint))
    if as_json:
        print_json([_structure(one) for one in found], indent=None if anew else 2)
        return
    if not found:
        print_line("no alert is pending or firing")
        return
    rows = [
        (
            one.fingerprint[:8],
            _state(one),
            one.labels["alertname"],
            one.labels.get("severity", "-"),
            moment(one.resolved_at_ms or one.fired_at_ms or one.active_at_ms),
            number(one.value),
            one.annotations.get("summary") or _labels(one),
        )
        for one in found
    ]
    print_line("\n".join(table(("ID", "STATE", "ALERT", "SEVERITY", "SINCE", "VALUE", "SUMMARY"), rows)))


_ORDER = ("firing", "pending", "resolved")


def _state(alert: v1.Alert) -> str:
    state: str = alert.state
    if alert.HasField("acknowledgement"):
        state += f", acknowledged by {alert.acknowledgement.author}"
    return f"{state}, silenced" if alert.silenced_by else state


def _labels(alert: v1.Alert) -> str:
    return ", ".join(f"{name}={value}" for name, value in sorted(alert.labels.items()) if name != "alertname")


def _structure(alert: v1.Alert) -> dict[str, Any]:
    times = ("active_at_ms", "fired_at_ms", "resolved_at_ms")
    ack = alert.acknowledgement
    return {
        "id": alert.fingerprint,
        "state": alert.state,
        "labels": dict(sorted(alert.labels.items())),
        "annotations": dict(sorted(alert.annotations.items())),
        "value": alert.value if alert.value - alert.value == 0 else repr(alert.value),
        **{name.removesuffix("_ms"): getattr(alert, name) / 1000 or None for name in times},
        "silenced_by": list(alert.silenced_by),
        "acknowledged": {"author": ack.author, "comment": ack.comment, "at": ack.at_ms / 1000} if ack.at_ms else None,
    }


def _rule(group: v1.RuleGroup, rule: v1.Rule) -> dict[str, Any]:
    return {
        "file": group.file,
        "group": group.name,
        "name": rule.name,
        "alerting": rule.alerting,
        "query": rule.query,
        "state": rule.state,
        "health": rule.health,
        "error": rule.error,
        "for": rule.for_seconds,
        "labels": dict(rule.labels),
        "annotations": dict(rule.annotations),
    }


def _matcher(text: str) -> str:
    """Return a matcher as PromQL writes it; quotes may be left out."""
    from mesh.errors import UsageError

    for op in ("!=", "=~", "!~", "="):
        name, found, value = text.partition(op)
        if found and name.isidentifier():
            bare = value[1:-1] if len(value) > 1 and value[0] == value[-1] == '"' else value.replace("\\", "\\\\")
            return f'{name}{op}"{bare}"'
    raise UsageError(f"'{text}' is not NAME=VALUE, NAME!=VALUE, NAME=~PATTERN or NAME!~PATTERN")


def _me() -> str:
    try:
        return getpass.getuser()
    except OSError:  # a user without a name
        return ""
