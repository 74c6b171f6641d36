"""The command lines of `mesh traces`, `mesh trace` and `mesh topology`."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import typer

from mesh.cli import arguments

Since = Annotated[str, typer.Option(metavar="TIME", help="From then on: 90s, 15m, 2h, 3d ago, or 2026-11-22T16:00.")]
Until = Annotated[str, typer.Option(metavar="TIME", help="Up to then.")]
Service = Annotated[list[str] | None, typer.Option(metavar="NAME", help="A span of this one; may be repeated.")]
Attr = Annotated[
    list[str] | None,
    typer.Option(metavar="KEY=VALUE", help="With this attribute; KEY alone: with any such. May be repeated."),
]


def add_to(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command(
        "traces",
        epilog=arguments.examples(
            "mesh traces                                      the newest of the last hour",
            "mesh traces --errors --since 2d                  those that failed",
            "mesh traces --service orders --min-duration 1s   orders took a second",
            "mesh traces --attr order.id=7 --since 7d         those of one order",
            "mesh traces --latency --since 15m                who makes the latency",
        ),
    )(traces)
    app.command(
        "trace",
        epilog=arguments.examples(
            "mesh trace 0af7651916cd43dd8448eb211c80319c      one trace",
            "mesh trace order-7                               a correlation id's traces",
        ),
    )(trace)
    app.command(
        "topology",
        epilog=arguments.examples(
            "mesh topology                                    of the last hour",
            "mesh topology --since 15m --service payments     one and its neighbours",
        ),
    )(topology)


def traces(
    *,
    service: Service = None,
    instance: Annotated[
        list[str] | None, typer.Option(metavar="ID", help="A span of this one; may be repeated.")
    ] = None,
    method: Annotated[
        str,
        typer.Option(metavar="NAME", help="A span of this method, or its end: shop.v1.Orders/Get, Orders/Get, Get."),
    ] = "",
    min_duration: Annotated[str, typer.Option(metavar="TIME", help="A span that took so long: 250ms, 1.5s, 2m.")] = "",
    max_duration: Annotated[str, typer.Option(metavar="TIME", help="A span that took no longer.")] = "",
    errors: Annotated[bool, typer.Option("--errors", help="A span that failed.")] = False,
    code: Annotated[
        list[str] | None, typer.Option(metavar="CODE", help="A span with this gRPC code; may be repeated.")
    ] = None,
    attr: Attr = None,
    cid: Annotated[str, typer.Option("--cid", metavar="ID", help="With this correlation id, whenever it was.")] = "",
    since: Since = "",
    until: Until = "",
    latency: Annotated[
        bool,
        typer.Option("--latency", help="Where the time of those spans went: by service and method, the most first."),
    ] = False,
    limit: Annotated[
        int, typer.Option("-n", "--limit", metavar="N", min=1, max=100_000, help="At most so many, the newest.")
    ] = 20,
    control: arguments.Control = None,
    as_json: arguments.Json = False,
    debug: arguments.Debug = False,
) -> int:
    """Show traces, the newest first: those with one span that all of the options fit.

    Without --cid or --since those of the last hour.
    """
    from mesh.api.tracesink.v1 import LatencyRequest
    from mesh.cli.output import print_json, say
    from mesh.cli.traces import show
    from mesh.cli.traces.asking import CALL_SECONDS, found, make_filter

    filter_ = make_filter(
        now_ns=time.time_ns(),
        services=service or [],
        instances=instance or [],
        method=method,
        min_duration=min_duration,
        max_duration=max_duration,
        errors=errors,
        codes=code or [],
        attributes=attr or [],
        correlation_id=cid,
        since=since or ("7d" if latency and cid else ""),
        until=until,
    )

    async def list_(stub: Any) -> None:
        listed, more = await found(stub, filter_, limit)
        if as_json:
            print_json(show.structures(listed))
        elif listed:
            show.print_traces(listed)
            if more:
                say("there are more; -n shows more, --since and --until others")
        else:
            say("no trace fits; see mesh traces --help for --since, --service and so on")

    async def measure(stub: Any) -> None:
        reply = await stub.Latency(LatencyRequest(filter=filter_), timeout=CALL_SECONDS)
        if as_json:
            print_json(show.structures(reply.rows[:limit]))
        elif reply.rows:
            show.print_latencies(reply, limit)
        else:
            say("no span fits; see mesh traces --help for --since, --service and so on")

    return _run(measure if latency else list_, control, debug=debug)


def trace(
    id_: Annotated[str, typer.Argument(metavar="ID", help="A trace id, or a correlation id: then each of its traces.")],
    *,
    limit: Annotated[
        int, typer.Option("-n", "--limit", metavar="N", min=1, max=10_000, help="At most so many spans of a trace.")
    ] = 300,
    control: arguments.Control = None,
    as_json: arguments.Json = False,
    debug: arguments.Debug = False,
) -> int:
    """Show a trace as a waterfall: what called what, when, and what made it take as long as it did.

    SELF is the time in which nothing below a span was under way. Bars are full where the span held the trace up.
    """
    from mesh.cli.output import print_json, print_line, say
    from mesh.cli.traces import show
    from mesh.cli.traces.asking import MAX_TRACES, traces_of
    from mesh.errors import MeshError

    async def ask(stub: Any) -> None:
        found, more = await traces_of(stub, id_)
        if not found:
            raise MeshError(
                f"there is no trace with the trace id or correlation id '{id_}': not yet, or no longer kept"
            )
        if as_json:
            print_json([show.trace_structure(one) for one in found])
            return
        for number, one in enumerate(found):
            if number:
                print_line()
            show.print_trace(one, limit)
        if more:
            say(f"these are the newest {MAX_TRACES} traces; mesh traces --cid {id_} lists all")

    return _run(ask, control, debug=debug)


def topology(
    *,
    since: Since = "",
    until: Until = "",
    service: Annotated[str, typer.Option(metavar="NAME", help="Only who calls this one, and whom it calls.")] = "",
    proxies: Annotated[
        bool, typer.Option("--proxies", help="Show edges that calls go through as services of their own.")
    ] = False,
    control: arguments.Control = None,
    as_json: arguments.Json = False,
    debug: arguments.Debug = False,
) -> int:
    """Show who calls whom, how often, how often that failed, and how long it took, of the last hour by default."""
    from mesh.api.tracesink.v1 import TopologyRequest
    from mesh.cli.output import print_json, say
    from mesh.cli.traces import show
    from mesh.cli.traces.asking import CALL_SECONDS, window

    start, end = window(since, until, time.time_ns())
    request = TopologyRequest(start_ns=start, end_ns=end, service=service, proxies=proxies)

    async def ask(stub: Any) -> None:
        reply = await stub.Topology(request, timeout=CALL_SECONDS)
        if as_json:
            print_json(show.structures(reply.edges))
        elif reply.edges:
            show.print_topology(reply)
        else:
            say("no calls between services in that time; see mesh topology --help for --since")

    return _run(ask, control, debug=debug)


def _run(ask: Callable[[Any], Awaitable[None]], control: str | None, *, debug: bool) -> int:
    from mesh.cli.traces.asking import asked
    from mesh.cli.waiting import LeftError, unless
    from mesh.runtime import Process, run

    address = arguments.control_address(control)

    async def main(process: Process) -> None:
        try:
            await unless(asked(address, ask), process.stop.wait())
        except LeftError:
            return

    return run(main, Process(debug=debug))
