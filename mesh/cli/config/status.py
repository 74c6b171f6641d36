"""`mesh config status|audit`: what every instance runs, and who changed what."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from mesh.cli import arguments
from mesh.cli.config.asking import TIMEOUT, asking, structure, with_config
from mesh.cli.output import print_json, print_line
from mesh.errors import MeshError

if TYPE_CHECKING:
    from mesh.api.config import v1
    from mesh.api.config.v1.config_pb2_grpc import ConfigAsyncStub

WATCH_SECONDS = 1.0

_MaybeApplication = Annotated[str, typer.Argument(metavar="[APPLICATION]", help="Left out: all applications.")]


def add_to(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command(
        "status",
        epilog=arguments.examples(
            "mesh config status",
            "mesh config status shop --watch",
            "mesh config status shop --lagging      who does not run what it should",
            "mesh config status shop --not-in 7 --json | jq -r '.instances[].instance'",
        ),
    )(status)
    app.command("audit", epilog=arguments.examples("mesh config audit", "mesh config audit shop --limit 20"))(audit)


def status(
    *,
    application: _MaybeApplication = "",
    release: Annotated[int, typer.Option("--in", metavar="N", min=0, help="Who reported this release.")] = 0,
    not_in: Annotated[int, typer.Option("--not-in", metavar="N", min=0, help="Who lives and does not run it.")] = 0,
    lagging: Annotated[bool, typer.Option("--lagging", help="Who lives and does not run what it should.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Show it again whenever it changes.")] = False,
    control: arguments.Control = None,
    as_json: arguments.Json = False,
    debug: arguments.Debug = False,
) -> int:
    """Show the applications or, of one, which release every instance runs and which ones lag."""
    import asyncio

    from mesh.api.config import v1
    from mesh.runtime import Process, run

    address = arguments.control_address(control)
    request = v1.ListAppliedRequest(
        application=application, release=not_in or release, not_in=bool(not_in) or lagging, limit=5000
    )

    async def look(config: ConfigAsyncStub) -> tuple[list[str], Any]:
        return await (_instances(config, request) if application else _applications(config))

    async def main(process: Process) -> None:
        if not watch:
            lines, found = await with_config(address, look)
            if as_json:
                print_json(found)
            else:
                print_line("\n".join(lines))
            return
        shown: object = None
        while not process.stop.is_set():
            try:
                lines, found = await with_config(address, look)
            except MeshError as error:
                lines, found = [str(error)], {"error": str(error)}
            if found != shown:
                shown = found
                _show_again(lines, found, as_json=as_json)
            try:
                await asyncio.wait_for(process.stop.wait(), WATCH_SECONDS)
            except TimeoutError:
                continue

    return run(main, Process(debug=debug))


def audit(
    *,
    application: _MaybeApplication = "",
    limit: Annotated[int, typer.Option("--limit", metavar="N", min=1, max=1000, help="How many.")] = 50,
    control: arguments.Control = None,
    as_json: arguments.Json = False,
    debug: arguments.Debug = False,
) -> int:
    """Show every change, newest first: who, when, what."""
    from mesh.api.config import v1
    from mesh.cli.config import show

    async def ask(config: ConfigAsyncStub) -> None:
        reply = await config.ListAudit(v1.ListAuditRequest(application=application, limit=limit), timeout=TIMEOUT)
        if as_json:
            print_json(structure(reply))
        else:
            print_line("\n".join(show.audit(reply)))

    return asking(ask, control, debug=debug)


async def _applications(config: ConfigAsyncStub) -> tuple[list[str], Any]:
    from mesh.api.config import v1
    from mesh.cli.config import show

    reply = await config.ListApplications(v1.ListApplicationsRequest(), timeout=TIMEOUT)
    return show.applications(reply), {"applications": [structure(one) for one in reply.applications]}


async def _instances(config: ConfigAsyncStub, request: v1.ListAppliedRequest) -> tuple[list[str], Any]:
    from mesh.api.config import v1
    from mesh.cli.config import show

    known = await config.GetApplication(v1.GetApplicationRequest(application=request.application), timeout=TIMEOUT)
    whole = v1.ListAppliedResponse()
    while True:
        page = await config.ListApplied(request, timeout=TIMEOUT)
        whole.applied.extend(page.applied)
        whole.live_instances, whole.lagging_instances = page.live_instances, page.lagging_instances
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    request.page_token = ""
    found = {
        "application": structure(known.application),
        "live_instances": whole.live_instances,
        "lagging_instances": whole.lagging_instances,
        "instances": [structure(one) for one in whole.applied],
    }
    return show.status(known.application, whole), found


def _show_again(lines: list[str], found: Any, *, as_json: bool) -> None:
    import sys

    if as_json:
        print_json(found, indent=None)
        return
    if sys.stdout.isatty():
        from rich.console import Console

        Console().clear()
    print_line("\n".join(lines) + "\n")
