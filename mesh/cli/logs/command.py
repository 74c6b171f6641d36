"""The command line of `mesh logs`."""

from __future__ import annotations

from typing import Annotated

import typer

from mesh.cli import arguments


def add_to(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command(
        "logs",
        epilog=arguments.examples(
            "mesh logs                              the last records of an hour",
            "mesh logs -f --service orders          as they come",
            "mesh logs --cid order-7                all of one conversation",
            "mesh logs --since 2d --level error timeout",
            "mesh logs --attr order.id=7 --json | jq .body",
        ),
    )(logs)


def logs(
    text: Annotated[
        str, typer.Argument(metavar="[TEXT]", help="Part of the message, in whatever case.", show_default=False)
    ] = "",
    *,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Show records as they come.")] = False,
    service: Annotated[list[str] | None, typer.Option(metavar="NAME", help="Of this one; may be repeated.")] = None,
    instance: Annotated[list[str] | None, typer.Option(metavar="ID", help="Of this one; may be repeated.")] = None,
    level: Annotated[
        str, typer.Option(metavar="LEVEL", help="This one or higher: trace, debug, info, warn, error, fatal.")
    ] = "",
    cid: Annotated[
        str, typer.Option("--cid", metavar="ID", help="With this correlation id or trace id, whenever it was.")
    ] = "",
    since: Annotated[
        str, typer.Option(metavar="TIME", help="From then on: 90s, 15m, 2h, 3d ago, or 2026-11-22T16:00.")
    ] = "",
    until: Annotated[str, typer.Option(metavar="TIME", help="Up to then.")] = "",
    attr: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="With this attribute; KEY alone: with any such. May be repeated."),
    ] = None,
    regex: Annotated[str, typer.Option(metavar="EXPRESSION", help="That matches in the message.")] = "",
    limit: Annotated[
        int, typer.Option("-n", "--limit", metavar="N", min=1, max=1_000_000, help="At most so many, the newest.")
    ] = 100,
    control: arguments.Control = None,
    as_json: arguments.Json = False,
    debug: arguments.Debug = False,
) -> int:
    """Show log records, the newest last.

    Without --cid or --since those of the last hour. With -f the last ten, and then all that come.
    """
    import time

    from mesh.cli.logs.asking import Asked, make_filter, show
    from mesh.runtime import Process, run

    filter_ = make_filter(
        now_ns=time.time_ns(),
        text=text,
        services=service or [],
        instances=instance or [],
        level=level,
        correlation_id=cid,
        since=since,
        until=until,
        attributes=attr or [],
        regex=regex,
        follow=follow,
    )
    asked = Asked(arguments.control_address(control), filter_, limit, follow=follow, as_json=as_json)
    return run(lambda process: show(asked, process), Process(debug=debug))
