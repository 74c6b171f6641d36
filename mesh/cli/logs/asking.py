"""What `mesh logs` asks the sink."""

from __future__ import annotations

import asyncio
import datetime as dt
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import grpc

from mesh.api.logsink.v1 import Filter, LogRecord, LogSinkStub, SearchRequest, SearchResponse, TailRequest, TailResponse
from mesh.cli.logs.show import Printer
from mesh.cli.output import say
from mesh.cli.waiting import LeftError, unless
from mesh.discovery.channel import control_channel, mesh_error
from mesh.discovery.errors import RefusedError
from mesh.discovery.targets import Targets
from mesh.errors import MeshError, UsageError
from mesh.runtime import Process
from mesh.telemetry.record import LEVELS

DEFAULT_SINCE_NS = 3600 * 10**9
BACKLOG = 10
PAGE = 1_000
CALL_SECONDS = 40.0

# What the sinks call what these commands' options mean.
_OPTIONS = {
    "filter.attributes": "--attr",
    "filter.codes": "--code",
    "filter.correlation_id": "--cid",
    "filter.instances": "--instance",
    "filter.method": "--method",
    "filter.regex": "--regex",
    "filter.services": "--service",
    "filter.text": "TEXT",
}

_AGO = re.compile(r"(\d{1,9})(s|m|h|d|w)(?: ago)?")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}


@dataclass(frozen=True, slots=True)
class Asked:
    """What `mesh logs` was asked for."""

    control: str
    filter: Filter
    limit: int
    follow: bool
    as_json: bool


def make_filter(
    *,
    now_ns: int,
    text: str,
    services: Sequence[str],
    instances: Sequence[str],
    level: str,
    correlation_id: str,
    since: str,
    until: str,
    attributes: Sequence[str],
    regex: str,
    follow: bool,
) -> Filter:
    """Return the filter that options mean.

    Raises:
        UsageError: one of them makes no sense.

    """
    if level and level.lower() not in LEVELS:
        raise UsageError(f"--level: '{level}' is none of {', '.join(LEVELS)}")
    if follow and (since or until):
        raise UsageError("-f shows what comes: leave out --since and --until, or leave out -f")
    pairs = {}
    for one in attributes:
        key, _, value = one.partition("=")
        if not key:
            raise UsageError(f"--attr: '{one}' is not KEY=VALUE")
        pairs[key] = value
    filter_ = Filter(
        correlation_id=correlation_id,
        services=services,
        instances=instances,
        min_severity=LEVELS[level.lower()] if level else 0,
        text=text,
        regex=regex,
        attributes=pairs,
    )
    if since or until or not (correlation_id or follow):
        filter_.end_ns = parse_time(until, "--until", now_ns) if until else now_ns + DEFAULT_SINCE_NS
        filter_.start_ns = (
            parse_time(since, "--since", now_ns) if since else min(now_ns, filter_.end_ns) - DEFAULT_SINCE_NS
        )
        if filter_.start_ns >= filter_.end_ns:
            raise UsageError("--since must be before --until")
    return filter_


def parse_time(text: str, option: str, now_ns: int) -> int:
    """Return a time in nanoseconds since 1970: so long ago, or as ISO 8601 has it, in local time if it has no zone."""
    if match := _AGO.fullmatch(text.strip()):
        return max(1, now_ns - int(match[1]) * _UNITS[match[2]] * 10**9)
    try:
        found = dt.datetime.fromisoformat(text.strip())
        return max(1, round(found.timestamp() * 1e9))
    except (ValueError, OverflowError, OSError) as error:
        raise UsageError(
            f"{option}: '{text}' is no time: write 90s, 15m, 2h or 3d (ago), or 2026-11-22T16:00"
        ) from error


async def show(asked: Asked, process: Process) -> None:
    """Print what is found until there is no more, or `process.stop`."""
    targets = Targets(asked.control)
    printer = Printer(as_json=asked.as_json)
    try:
        if asked.follow:
            await unless(_follow(asked, targets, printer), process.stop.wait())
        else:
            await unless(_search(asked, targets, printer), process.stop.wait())
    except LeftError:
        return


async def _search(asked: Asked, targets: Targets, printer: Printer) -> None:
    for _ in range(len(targets)):
        try:
            found = await _newest(asked, targets.current)
            break
        except grpc.aio.AioRpcError as error:
            failure = _error(error, targets.current)
            if isinstance(failure, RefusedError | UsageError):
                raise failure from error
            targets.move_on()
    else:
        raise failure
    if not found and not asked.as_json:
        say("no log record fits; see mesh logs --help for --since, --level and so on")
    for record in reversed(found):
        printer.print(record)


async def _newest(asked: Asked, target: str) -> list[LogRecord]:
    """Return the newest records that fit, newest first."""
    found: list[LogRecord] = []
    cursor = ""
    async with control_channel(target) as channel:
        stub: Any = LogSinkStub(channel)
        while len(found) < asked.limit:
            request = SearchRequest(filter=asked.filter, limit=min(PAGE, asked.limit - len(found)), cursor=cursor)
            page: SearchResponse = await stub.Search(request, timeout=CALL_SECONDS)
            found += page.records
            cursor = page.cursor
            if not cursor:
                break
    return found


async def _follow(asked: Asked, targets: Targets, printer: Printer) -> None:
    request = TailRequest(filter=asked.filter, backlog=min(BACKLOG, asked.limit))
    away = False
    while True:
        try:
            async with control_channel(targets.current) as channel:
                stub: Any = LogSinkStub(channel)
                reply: TailResponse
                async for reply in stub.Tail(request):
                    if away:
                        say("the log sink answers again")
                    away = False
                    targets.reset()
                    for record in reply.records:
                        printer.print(record)
                    request.cursor = reply.cursor
        except grpc.aio.AioRpcError as error:
            failure = _error(error, targets.current)
            # What never worked will not now; what did is waited for.
            if isinstance(failure, RefusedError | UsageError) or not request.cursor:
                raise failure from error
            if not away:
                say(f"{failure}; waiting for it")
            away = True
        await asyncio.sleep(max(0.2, targets.move_on()))


def refused(error: grpc.aio.AioRpcError) -> MeshError | None:
    """Return what is wrong with what was asked, in the words of the command line; None when it is another error."""
    if error.code() is not grpc.StatusCode.INVALID_ARGUMENT:
        return None
    field, colon, rest = (error.details() or "what was asked makes no sense").partition(": ")
    option = _OPTIONS.get(field)
    return UsageError(f"{option}: {rest}" if option and colon else f"{field}{colon}{rest}")


def _error(error: grpc.aio.AioRpcError, target: str) -> MeshError:
    if (wrong := refused(error)) is not None:
        return wrong
    # The sink's own words say more than that nobody answers.
    if error.code() is grpc.StatusCode.UNAVAILABLE and "telemetry" in (error.details() or ""):
        return MeshError(error.details() or "")
    if error.code() in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.RESOURCE_EXHAUSTED):
        return RefusedError(error.details() or "the search takes too long: narrow its time range with --since")
    return mesh_error(error, target)
