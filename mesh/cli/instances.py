"""`mesh instances`: every instance, its state and why; `mesh drain`: take one out, and know when it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from mesh.cli import arguments

if TYPE_CHECKING:
    from mesh.runtime import Process


def add_to(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command(
        "instances",
        epilog=arguments.examples(
            "mesh instances",
            "mesh instances orders --watch",
            "mesh instances --json | jq '.instances[] | select(.health != \"SERVING\")'",
        ),
    )(instances)
    app.command(
        "drain",
        epilog=arguments.examples(
            "mesh drain orders-2",
            "mesh drain orders/orders-2 --reason 'new disk' --timeout 30",
            "mesh drain orders-2 --undo",
        ),
    )(drain)


def instances(
    *,
    service: Annotated[str, typer.Argument(metavar="[SERVICE]", help="Only this service.", show_default=False)] = "",
    watch: Annotated[bool, typer.Option("--watch", help="Show it again whenever it changes.")] = False,
    control: arguments.Control = None,
    as_json: arguments.Json = False,
    debug: arguments.Debug = False,
) -> int:
    """Show every instance: its state and why, where and since when it runs, its zone and its share of calls.

    A weight such as 40 of 100 is one that warms up. --json has each opinion of an instance's health apart.
    """
    from mesh.cli.overview.instances import show
    from mesh.runtime import Process, run

    address = arguments.control_address(control)

    async def work(process: Process) -> None:
        await show(address, service, process, watch=watch, as_json=as_json)

    return run(work, Process(debug=debug))


def drain(
    *,
    instance: Annotated[str, typer.Argument(metavar="[SERVICE/]INSTANCE", help="Which one.")],
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why, for those who look.")] = "",
    timeout: Annotated[
        float, typer.Option(metavar="SECONDS", min=0, max=300, help="How long to wait for edges and other watchers.")
    ] = 5.0,
    undo: Annotated[bool, typer.Option("--undo", help="End the drain: it gets calls again.")] = False,
    control: arguments.Control = None,
    as_json: arguments.Json = False,
    debug: arguments.Debug = False,
) -> int:
    """Send no more calls to an instance, and wait until every edge has put that into force.

    The drain lasts until the instance registers anew or --undo. Exit code 1 says that somebody has not acknowledged.
    """
    from mesh.cli.overview.drain import Drain
    from mesh.runtime import Process, run

    asked = Drain(arguments.control_address(control), instance, reason=reason, timeout=timeout, undo=undo)
    return run(lambda process: asked.run(process, as_json=as_json), Process(debug=debug)) or asked.exit_code
