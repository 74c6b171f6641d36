"""`mesh query`: what PromQL answers, now or over a time."""

from __future__ import annotations

import shutil
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mesh.cli import arguments
from mesh.cli.metrics.asking import asking, moment, number, seconds
from mesh.cli.output import print_json, print_line, say, table

if TYPE_CHECKING:
    from mesh.api.metrics import v1
    from mesh.api.metrics.v1.metrics_pb2_grpc import MetricsAsyncStub
    from mesh.runtime import Process

# Columns of a graph, when the terminal has them.
WIDTH, LEAST_WIDTH = 80, 20
# Steps of a range that names none.
STEPS = 120
TIMEOUT = 60.0


def add_to(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command(
        "query",
        epilog=arguments.examples(
            "mesh query up",
            "mesh query 'sum by (service) (rate(mesh_edge_calls_total[1m]))'",
            "mesh query 'sum(rate(mesh_edge_calls_total[1m]))' --range 1h --step 30s",
            "mesh query 'mesh_instance_up == 0' --json | jq '.series[].labels'",
        ),
    )(query)


def query(
    *,
    promql: Annotated[str, typer.Argument(metavar="PROMQL", help="What is asked, in Prometheus' language.")],
    over: Annotated[
        str | None, typer.Option("--range", metavar="TIME", help="Over so much time up to now: 15m, 1h, 7d.")
    ] = None,
    step: Annotated[
        str | None, typer.Option(metavar="TIME", help="With --range, how far apart.  [dim]\\[default: a 120th][/]")
    ] = None,
    control: arguments.Control = None,
    as_json: arguments.Json = False,
    debug: arguments.Debug = False,
) -> int:
    """Ask for metrics of the mesh, its instances and calls, in PromQL: their values now, or a graph of a time."""
    from mesh.errors import UsageError

    if step is not None and over is None:
        raise UsageError("--step: it goes with --range")
    length = seconds(over, "--range") if over is not None else None
    apart = seconds(step, "--step") if step is not None else max(1.0, round((length or 0) / STEPS))

    async def ask(stub: MetricsAsyncStub, _: Process) -> None:
        from mesh.api.metrics import v1

        if length is None:
            answer = (await stub.Query(v1.QueryRequest(query=promql), timeout=TIMEOUT)).answer
            if as_json:
                print_json(_structure(answer))
            else:
                _show_now(answer)
            return
        end = time.time_ns() // 1_000_000
        start = end - round(length * 1000)
        request = v1.QueryRangeRequest(query=promql, start_ms=start, end_ms=end, step_ms=round(apart * 1000))
        answer = (await stub.QueryRange(request, timeout=TIMEOUT)).answer
        if as_json:
            print_json(_structure(answer))
        else:
            _show_range(answer, start, end, round(length / apart) + 1)

    return asking(ask, control, debug=debug)


def _structure(answer: v1.Answer) -> dict[str, Any]:
    """Return an answer as data."""
    if answer.type == "string":
        return {"type": answer.type, "text": answer.text}
    many = answer.type == "matrix"
    series = [
        {
            "labels": dict(sorted(one.labels.items())),
            **(
                {"values": [[at / 1000, _plain(value)] for at, value in zip(one.times_ms, one.values, strict=True)]}
                if many
                else {"time": one.times_ms[-1] / 1000, "value": _plain(one.values[-1])}
            ),
        }
        for one in answer.series
    ]
    return {"type": answer.type, "series": series}


def _plain(value: float) -> float | str:
    """Return a value that JSON has: it has neither NaN nor infinities."""
    return value if value - value == 0 else {"nan": "NaN", "inf": "+Inf", "-inf": "-Inf"}[repr(value)]


def _show_now(answer: v1.Answer) -> None:
    if answer.type == "string":
        print_line(answer.text)
        return
    if answer.type == "scalar":
        print_line(number(answer.series[0].values[0]))
        return
    if not answer.series:
        say("no series fits, or none has a sample of the last five minutes")
        return
    if answer.type == "matrix":
        rows = [
            (_name(one), moment(at), number(value))
            for one in answer.series
            for at, value in zip(one.times_ms, one.values, strict=True)
        ]
        print_line("\n".join(table(("SERIES", "TIME", "VALUE"), rows)))
        return
    names = sorted({name for one in answer.series for name in one.labels if name != "__name__"})
    metric = any("__name__" in one.labels for one in answer.series)
    head = [*(["METRIC"] if metric else []), *(name.upper() for name in names), "VALUE"]
    rows = [
        (
            *((one.labels.get("__name__", "-"),) if metric else ()),
            *(one.labels.get(name, "-") for name in names),
            number(one.values[-1]),
        )
        for one in answer.series
    ]
    print_line("\n".join(table(head, rows)))


def _show_range(answer: v1.Answer, start: int, end: int, steps: int) -> None:
    from mesh.cli.metrics.graph import spark

    if not answer.series:
        say("no series fits, or none has a sample in that time")
        return
    names = [_name(one) for one in answer.series]
    room = shutil.get_terminal_size((120, 24)).columns - max(map(len, names)) - 40
    width = min(WIDTH, max(LEAST_WIDTH, room), max(steps, 2))
    rows = []
    for name, one in zip(names, answer.series, strict=True):
        points = list(zip(one.times_ms, one.values, strict=True))
        graph = spark(points, start, end, width)
        rows.append((name, graph, number(min(one.values)), number(max(one.values)), number(one.values[-1])))
    graph_head = f"{moment(start)} - {moment(end)[11:]}"
    print_line("\n".join(table(("SERIES", graph_head, "MIN", "MAX", "LAST"), rows)))


def _name(series: v1.TimeSeries) -> str:
    """Return a series as PromQL writes it."""
    inside = ", ".join(f'{name}="{value}"' for name, value in sorted(series.labels.items()) if name != "__name__")
    return f"{series.labels.get('__name__', '')}{{{inside}}}" if inside else series.labels.get("__name__", "{}")
