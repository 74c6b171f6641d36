"""The options that several commands share, each said once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mesh.options import (
    CONTROL_VARIABLE,
    DEFAULT_ADMIN,
    DEFAULT_INTERNAL,
    DEFAULT_PUBLIC,
    default_control,
    parse_address,
    parse_addresses,
)
from proxy.options import ENGINES, EdgeOptions

_EDGE = EdgeOptions(control=DEFAULT_INTERNAL)
DEFAULT_GRACE = _EDGE.grace


def _shown(default: str) -> str:
    """Return how help shows a default that the command line does not know, because a file may set it."""
    return f"[dim]\\[default: {default}][/]"


Debug = Annotated[bool, typer.Option("--debug", help="Show the trace of an error.", show_default=False)]

Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.", show_default=False)]

Control = Annotated[
    str | None,
    typer.Option(
        "--control",
        metavar="HOST:PORT[,...]",
        help=(
            "Where the control services are: the internal listener of any edge, or the control process itself; with "
            f"several, whichever serves. Default: ${CONTROL_VARIABLE}, else {DEFAULT_INTERNAL}."
        ),
    ),
]

Public = Annotated[
    str | None,
    typer.Option("--public", metavar="HOST:PORT", help=f"Where clients call what is public.  {_shown(DEFAULT_PUBLIC)}"),
]
Internal = Annotated[
    str | None,
    typer.Option(
        "--internal",
        metavar="HOST:PORT",
        help=f"Where services call each other, and the mesh.  {_shown(DEFAULT_INTERNAL)}",
    ),
]
Http = Annotated[
    str,
    typer.Option(
        "--http",
        metavar="HOST:PORT",
        help="Where metrics can be asked for as of a Prometheus, by Grafana for example.",
        show_default=False,
    ),
]
AlertWebhook = Annotated[
    list[str] | None,
    typer.Option(
        "--alert-webhook",
        metavar="URL",
        help="Where alerts are sent; repeatable. $MESH_ALERT_SECRET signs them. Default: $MESH_ALERT_WEBHOOKS.",
    ),
]
Alertmanager = Annotated[
    list[str] | None,
    typer.Option(
        "--alertmanager",
        metavar="URL",
        help="An Alertmanager that alerts are sent to; repeatable. Default: $MESH_ALERTMANAGERS.",
    ),
]
Forward = Annotated[
    list[str] | None,
    typer.Option(
        "--forward",
        metavar="URL",
        help="A collector that all telemetry is sent on to by OTLP/gRPC; repeatable: otlp://HOST:PORT, or otlps:// for "
        "TLS, perhaps with ?signals=logs,traces,metrics&ca=FILE. $MESH_FORWARD_HEADERS has what its calls carry, "
        "such as a token. Default: $MESH_FORWARD.",
    ),
]
Keep = Annotated[
    list[str] | None,
    typer.Option(
        "--keep",
        metavar="NAME=VALUE",
        help="How long telemetry is kept, and how much of it; repeatable: logs=7d, traces=7d, metrics=15d and "
        "size=10GiB are the defaults. Default: $MESH_KEEP.",
        show_default=False,
    ),
]
Admin = Annotated[
    str | None,
    typer.Option("--admin", metavar="HOST:PORT", help=f"Where /metrics is, by HTTP.  {_shown(DEFAULT_ADMIN)}"),
]
Engine = Annotated[
    str | None,
    typer.Option(
        "--engine",
        metavar="NAME",
        help=f"What forwards the calls: {' or '.join(ENGINES)}.  {_shown(_EDGE.engine)}",
    ),
]
Config = Annotated[
    Path | None,
    typer.Option(
        "--config", metavar="FILE", help="The edge's options in a TOML file; what is said here goes before it."
    ),
]
DataDir = Annotated[
    Path | None,
    typer.Option("--data-dir", metavar="DIR", help=f"Where data is kept.  {_shown('~/.local/share/meshplane')}"),
]

_GRACE_HELP = "How long calls in flight may take to finish at a stop."
Grace = Annotated[float, typer.Option("--grace", metavar="SECONDS", min=0, help=_GRACE_HELP)]
OptionalGrace = Annotated[
    float | None,
    typer.Option("--grace", metavar="SECONDS", min=0, help=f"{_GRACE_HELP}  {_shown(f'{DEFAULT_GRACE:g}')}"),
]

Workers = Annotated[
    int | None,
    typer.Option(
        "--workers", metavar="N", help=f"Processes that share the edge's listeners.  {_shown(str(_EDGE.workers))}"
    ),
]

Environment = Annotated[
    str | None,
    typer.Option(
        "--environment", metavar="NAME", help="Whose layers of the configuration mesh.edge the edge gets, such as prod."
    ),
]

Zone = Annotated[
    str | None,
    typer.Option(
        "--zone", metavar="NAME", help="Where the edge runs: calls stay in this zone while enough of it serves."
    ),
]

# A supervisor sets these; a person has no use for them.
ReadyFd = Annotated[int | None, typer.Option("--ready-fd", hidden=True)]
LifelineFd = Annotated[int | None, typer.Option("--lifeline-fd", hidden=True)]
WorkerPlace = Annotated[str | None, typer.Option("--worker", hidden=True)]


def control_address(given: str | None) -> str:
    """Return the address of the control services: what was given, else the environment's, else the default."""
    return default_control() if given is None else parse_addresses(given, "--control")


def listen_address(given: str | None, option: str) -> str | None:
    """Return an address to listen on in one spelling; None, which stands for a default, stays None."""
    return None if given is None else parse_address(given, option, port_zero=True)


def examples(*lines: str) -> str:
    """Return an epilog that shows `lines` as they are."""
    return "\n".join(("\b", "Examples:", *(f"  {line}" for line in lines)))
