"""`mesh explain`: one page that tells the whole story of a call."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from mesh.cli import arguments
from mesh.cli.output import print_json, print_line

if TYPE_CHECKING:
    from mesh.runtime import Process

_TRACE_ID = re.compile(r"[0-9a-f]{32}").fullmatch
_TITLES = r"^(?:LIKELY CULPRIT|WHERE THE TIME WENT|AT THE EDGE|SPANS AND LOG LINES)\b"


def add_to(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command(
        "explain",
        epilog=arguments.examples(
            "mesh explain order-42",
            "mesh explain 4bf92f3577b34da6a3ce929d0e0e4736",
            "mesh explain order-42 --json | jq .culprit",
        ),
    )(explain)


def explain(
    *,
    correlation_id: Annotated[
        str, typer.Argument(metavar="ID", help="A correlation id (x-correlation-id of the reply), or a trace id.")
    ],
    control: arguments.Control = None,
    as_json: arguments.Json = False,
    debug: arguments.Debug = False,
) -> int:
    """Tell the whole story of a call on one page.

    Where it went and why, which endpoint was picked, attempts, circuit breaker, deadline and configuration release,
    all spans with the log lines in their places, and whose fault it most likely was, or whose time.
    """
    from mesh.runtime import Process, run

    address = arguments.control_address(control)
    return run(lambda process: _show(address, process, correlation_id.strip(), as_json=as_json), Process(debug=debug))


async def _show(control: str, _process: Process, given: str, *, as_json: bool) -> None:
    from mesh.cli.explain.asking import ask
    from mesh.cli.explain.page import page, structure

    story = await ask(control, given, is_trace=_TRACE_ID(given.lower()) is not None)
    if as_json:
        print_json(structure(story))
    elif not sys.stdout.isatty():
        print_line("\n".join(page(story)))
    else:
        _print_styled("\n".join(page(story)))


def _print_styled(text: str) -> None:
    from rich.console import Console
    from rich.text import Text

    shown = Text(text)
    for pattern, style in (
        (r"(?m)" + _TITLES, "bold"),
        (r"░+", "dim"),
        (r"█+", "cyan"),
        (r"\b(?:ERROR|FATAL)\b|failed with [A-Z_]+", "red"),
        (r"\bWARN\b", "yellow"),
        (r"\b(?:UNKNOWN|DEADLINE_EXCEEDED|INTERNAL|UNAVAILABLE|DATA_LOSS|RESOURCE_EXHAUSTED|UNIMPLEMENTED)\b", "red"),
    ):
        shown.highlight_regex(pattern, style)
    Console(highlight=False).print(shown, soft_wrap=True)
