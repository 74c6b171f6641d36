"""`mesh routes`: the ways that calls take, as the edges have them in force."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from mesh.cli import arguments
from mesh.cli.output import print_json, print_line, table

if TYPE_CHECKING:
    from mesh.api.edge.v1 import Configuration, ListRoutesResponse, Route

HEAD = ("LISTENER", "METHOD", "ROUTE", "CALLS", "GO TO", "SHARE", "ENDPOINTS", "OPTIONS FROM")
NOTHING = "-"


def add_to(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command(
        "routes",
        epilog=arguments.examples(
            "mesh routes",
            "mesh routes shop.v1.Orders",
            "mesh routes --json | jq '.edges[].configuration'",
        ),
    )(routes)


def routes(
    *,
    grpc_service: Annotated[str, typer.Argument(metavar="[GRPC_SERVICE]", help="Left out: all.")] = "",
    control: arguments.Control = None,
    as_json: arguments.Json = False,
    debug: arguments.Debug = False,
) -> int:
    """Show the routes that are in force at the edges, with the release and where each option is from.

    A call takes the first route that matches it, and goes where it was registered when none does. Edges that run the
    same release are shown once.
    """
    from mesh.runtime import Process, run

    address = arguments.control_address(control)

    async def main(_process: Process) -> None:
        from mesh.cli.overview.ways import ask_edges

        found = await ask_edges(address, grpc_service)
        if as_json:
            print_json({"edges": [_structure(*one) for one in found]})
        else:
            print_line("\n".join(lines(found)))

    return run(main, Process(debug=debug))


def lines(found: list[tuple[str, ListRoutesResponse | str]]) -> list[str]:
    """Return what is shown: for each release that some edge runs those edges, and the routes."""
    shown: list[str] = []
    tables: dict[tuple[str, ...], list[str]] = {}
    for instance, reply in found:
        if isinstance(reply, str):
            shown.append(f"edge {instance}: does not answer ({reply})")
            continue
        rows = tuple(table(HEAD, [row for route in reply.routes for row in _rows(route)]))
        tables.setdefault(rows, []).extend(_edge_lines(instance, reply.configuration))
    for rows, edges in tables.items():
        shown += [*([""] if shown else []), *edges, "", *rows]
    return shown or ["No edge is registered."]


def _edge_lines(instance: str, known: Configuration) -> list[str]:
    release = f"release {known.release} of mesh.edge" if known.release else "no release of mesh.edge"
    whose = f" for {known.environment}" if known.environment else ""
    away = "" if known.connected else ", the configuration is out of reach"
    said = [f"edge {instance}: {release}{whose}{away}"]
    if known.rejected_release:
        said.append(f"  release {known.rejected_release} is rejected: {known.error}")
    return said + [f"  note: {warning}" for warning in known.warnings]


def _rows(route: Route) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    totals = {way.origin: sum(one.weight for one in route.ways if one.origin == way.origin) for way in route.ways}
    for way in route.ways:
        labels = " ".join(f"{name}={value}" for name, value in sorted(way.labels.items()))
        options = sorted({place.rpartition(".")[0] for place in way.policies.values()})
        rows.append(
            (
                route.listener,
                f"{route.grpc_service}/{route.method}",
                way.name or way.origin or NOTHING,
                way.match or ("all" if way.origin == route.ways[0].origin else "all others"),
                f"{way.service}{labels and f' ({labels})'}{way.mirror and f', copies to {way.mirror}'}",
                f"{100 * way.weight / (totals[way.origin] or 1):.3g} %",
                str(way.endpoints),
                ", ".join(options) or NOTHING,
            )
        )
    return rows


def _structure(instance: str, reply: ListRoutesResponse | str) -> dict[str, Any]:
    from mesh.cli.config.asking import structure

    if isinstance(reply, str):
        return {"instance_id": instance, "error": reply}
    return {"instance_id": instance, **structure(reply)}
