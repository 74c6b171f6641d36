"""`mesh collect`: any log becomes records of the log sink."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mesh.cli import arguments
from mesh.options import default_data_dir

if TYPE_CHECKING:
    from mesh.runtime import Process
    from mesh.telemetry.collect.collector import CollectOptions


def add_to(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command(
        "collect",
        epilog=arguments.examples(
            "mesh collect /var/log/shop/orders.log --service orders",
            "mesh collect '/var/log/shop/*.log' journald",
            "mesh collect access.log --format clf --once",
            "mesh collect app.log --format 'regex:(?P<time>\\S+) (?P<message>.*)'",
            "./orders 2>&1 | mesh collect - --service orders",
        ),
    )(collect)


def collect(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="PATH...",
            help="Files, patterns of names in quotes, - for standard input, or journald.",
            show_default=False,
        ),
    ],
    *,
    service: Annotated[
        str, typer.Option(metavar="NAME", help="The service of records that name none; else the file's name.")
    ] = "",
    instance: Annotated[
        str, typer.Option(metavar="ID", help="The instance of records that name none; else this machine's name.")
    ] = "",
    format_: Annotated[
        str,
        typer.Option(
            "--format",
            metavar="NAME",
            help="auto, json, logfmt, clf (web servers), syslog, plain, or regex:EXPRESSION with groups named time, "
            "level, message and so on. auto looks at each line.",
        ),
    ] = "auto",
    places: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Where it is kept how far each file has been sent.  [dim]\\[default: collect/NAME.json in the data "
            "folder][/]",
        ),
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="End when all that is there has been sent.")] = False,
    control: arguments.Control = None,
    debug: arguments.Debug = False,
    ready_fd: arguments.ReadyFd = None,
    lifeline_fd: arguments.LifelineFd = None,
) -> int:
    """Follow log files, standard input or the journal, and send every event to the log sink.

    Files are followed over rotation and truncation; stack traces stay together. What has been sent is kept on disk:
    nothing is lost or sent twice when this command or the sink starts again. While the sink is away, it waits.
    """
    from mesh.runtime import Process, run
    from mesh.telemetry.collect.collector import CollectOptions

    options = CollectOptions(
        control=arguments.control_address(control),
        sources=tuple(sources),
        places=places or _places(sources),
        service=service,
        instance=instance,
        format=format_,
        once=once,
    )
    return run(lambda process: _collect(options, process), Process(ready_fd, lifeline_fd, debug))


def _places(sources: list[str]) -> Path:
    """Return a file for the places of these sources: the same command finds them again."""
    import hashlib
    import os

    names = [source if source in ("-", "journald") else os.path.abspath(source) for source in sources]  # noqa: PTH100
    digest = hashlib.blake2b("\0".join(sorted(names)).encode(), digest_size=4).hexdigest()
    readable = re.sub(r"[^A-Za-z0-9.]+", "-", Path(names[0]).name).strip("-")[:40]
    return default_data_dir() / "collect" / f"{readable or 'stdin'}-{digest}.json"


async def _collect(options: CollectOptions, process: Process) -> None:
    import logging

    from mesh.cli.output import say
    from mesh.cli.waiting import LeftError, unless
    from mesh.telemetry.collect.collector import Collector

    class _Said(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            say(record.getMessage())

    log = logging.getLogger("mesh.telemetry")
    log.addHandler(_Said())
    log.setLevel(logging.INFO)
    log.propagate = False
    collector = Collector(options)
    process.ready({})
    try:
        await unless(collector.run(), process.stop.wait())
    except LeftError:
        return
    except BaseExceptionGroup as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        raise error from None
