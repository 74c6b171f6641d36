"""`mesh top`: calls, errors and latency as they are now."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mesh.cli import arguments
from mesh.cli.metrics.asking import asking, seconds
from mesh.cli.output import print_json, print_line
from mesh.cli.top.rows import BY, Row, lines, queries, rows, structure
from mesh.errors import MeshError, UsageError

if TYPE_CHECKING:
    from mesh.api.metrics.v1.metrics_pb2_grpc import MetricsAsyncStub
    from mesh.runtime import Process

WATCH_SECONDS = 2.0
TIMEOUT = 15.0


def add_to(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command(
        "top",
        epilog=arguments.examples(
            "mesh top",
            "mesh top --by method",
            "mesh top --once --by instance",
            "mesh top --json | jq '.[] | select(.error_share > 0.01)'",
        ),
    )(top)


def top(
    *,
    by: Annotated[str, typer.Option("--by", metavar="|".join(BY), help="What has a row each.")] = BY[0],
    over: Annotated[
        str,
        typer.Option("--over", metavar="TIME", help="Over how much time rates and latencies are taken."),
    ] = "30s",
    once: Annotated[bool, typer.Option("--once", help="One look, and no more.", show_default=False)] = False,
    everything: Annotated[
        bool, typer.Option("--all", help="The mesh's own services, too.", show_default=False)
    ] = False,
    control: arguments.Control = None,
    as_json: arguments.Json = False,
    debug: arguments.Debug = False,
) -> int:
    """Show calls, errors, latency and circuit breakers of all services, live on a terminal; end it with Ctrl-C.

    A service that joined by the SDK tells of all calls that came to it; of others the edges tell, of the way to them,
    too. Errors are no client's mistakes. The breaker is the worst of all edges and clients. --by instance has no
    latencies, and counts attempts where edges tell: they do not keep latencies for each instance.
    """
    if by not in BY:
        raise UsageError(f"--by: '{by}' is none of {', '.join(BY)}")
    if seconds(over, "--over") < 20:
        raise UsageError("--over: metrics come every 10 s, so it must be at least 20s")

    async def ask(stub: MetricsAsyncStub, process: Process) -> None:
        if once or as_json or not sys.stdout.isatty():
            found = await _look(stub, by, over, everything=everything)
            if as_json:
                print_json(structure(by, found))
            else:
                print_line("\n".join(lines(by, found)))
            return
        await _live(stub, process, by, over, everything=everything)

    return asking(ask, control, debug=debug)


async def _look(stub: MetricsAsyncStub, by: str, over: str, *, everything: bool) -> list[Row]:
    import asyncio

    from mesh.api.metrics import v1

    asked = queries(by, over)
    replies = await asyncio.gather(*(stub.Query(v1.QueryRequest(query=one), timeout=TIMEOUT) for one in asked.values()))
    return rows(by, {name: one.answer.series for name, one in zip(asked, replies, strict=True)}, everything=everything)


async def _live(stub: MetricsAsyncStub, process: Process, by: str, over: str, *, everything: bool) -> None:
    """Show it again and again, until the process is asked to stop; what cannot be asked now is asked again."""
    import asyncio

    import grpc
    from rich.live import Live

    found: Sequence[Row] = ()
    with Live(_shown([""]), auto_refresh=False, screen=True) as live:
        while not process.stop.is_set():
            note = f"the last {over}; Ctrl-C ends it"
            try:
                found = await _look(stub, by, over, everything=everything)
            except (grpc.aio.AioRpcError, MeshError) as error:
                note = f"the metrics service does not answer: {_said(error)}; trying again"
            live.update(_shown([*lines(by, found)[: live.console.height - 3], "", note]), refresh=True)
            try:
                await asyncio.wait_for(process.stop.wait(), WATCH_SECONDS)
            except TimeoutError:
                continue


def _said(error: Exception) -> str:
    details = getattr(error, "details", None)
    return (details() if callable(details) else str(error)) or "no reason given"


def _shown(text: Sequence[str]) -> Any:
    from rich.text import Text

    shown = Text("\n".join(text), no_wrap=True, overflow="ellipsis")
    shown.highlight_regex(r"^SERVICE.*", "bold")
    shown.highlight_regex(r"\bclosed\b", "green")
    shown.highlight_regex(r"\bHALF-OPEN\b", "yellow")
    shown.highlight_regex(r"(?<!-)\bOPEN\b", "red")
    shown.highlight_regex(r"\b(?:[1-9]|[1-9][0-9]|100)(?:\.\d+)? %", "red")
    return shown
