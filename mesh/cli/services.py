"""`mesh services`: what is registered, how it is, and what the edges think of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from mesh.cli import arguments
from mesh.cli.output import print_json
from mesh.errors import MeshError

if TYPE_CHECKING:
    from mesh.runtime import Process

WATCH_SECONDS = 1.0


def add_to(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command(
        "services",
        epilog=arguments.examples(
            "mesh services",
            "mesh services --watch",
            "mesh services --json | jq '.services[].instances[].health'",
            "mesh services --control 10.0.0.5:7711",
        ),
    )(services)


def services(
    *,
    watch: Annotated[bool, typer.Option("--watch", help="Show it again whenever it changes.")] = False,
    control: arguments.Control = None,
    as_json: arguments.Json = False,
    debug: arguments.Debug = False,
) -> int:
    """Show every service and instance: where it is, its health, and the circuit breaker and calls at the edges.

    With several edges the worst breaker state is shown; --json has each edge's own.
    """
    from mesh.runtime import Process, run

    address = arguments.control_address(control)
    return run(lambda process: _show(address, process, watch=watch, as_json=as_json), Process(debug=debug))


async def _show(control: str, process: Process, *, watch: bool, as_json: bool) -> None:
    import asyncio

    from mesh.cli.overview.collect import collect
    from mesh.cli.overview.show import lines, print_states, structure

    if not watch:
        overview = await collect(control)
        if as_json:
            print_json(structure(overview))
        else:
            print_states("\n".join(lines(overview)))
        return
    shown: object = None
    while not process.stop.is_set():
        try:
            overview = await collect(control)
            found: object = structure(overview) if as_json else "\n".join(lines(overview))
        except MeshError as error:
            found = {"error": str(error)} if as_json else str(error)
        if found != shown:
            shown = found
            if as_json:
                print_json(found, indent=None)
            else:
                print_states(f"{found}\n", anew=True)
        try:
            await asyncio.wait_for(process.stop.wait(), WATCH_SECONDS)
        except TimeoutError:
            continue
