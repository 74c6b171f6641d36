"""How these commands ask the metrics service."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeVar

from mesh.cli import arguments
from mesh.errors import UsageError

if TYPE_CHECKING:
    from mesh.api.metrics.v1.metrics_pb2_grpc import MetricsAsyncStub
    from mesh.runtime import Process

T = TypeVar("T")

_DURATION = re.compile(r"(?:(\d+)w)?(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?")


def asking(ask: Callable[[MetricsAsyncStub, Process], Awaitable[None]], control: str | None, *, debug: bool) -> int:
    """Run `ask` with the Metrics service and return the exit code."""
    from mesh.runtime import Process, run

    address = arguments.control_address(control)

    async def main(process: Process) -> None:
        async def with_stub(stub: MetricsAsyncStub) -> None:
            await ask(stub, process)

        await with_metrics(address, with_stub)

    return run(main, Process(debug=debug))


async def with_metrics(address: str, ask: Callable[[MetricsAsyncStub], Awaitable[T]]) -> T:
    """Return what `ask` makes of the Metrics service at `address`.

    Raises:
        MeshError: the service refuses or does not answer; one sentence says why.

    """
    import grpc

    from mesh.api.metrics.v1 import MetricsStub
    from mesh.discovery.channel import control_channel, mesh_error
    from mesh.discovery.errors import RefusedError

    async with control_channel(address) as channel:
        try:
            return await ask(MetricsStub(channel))
        except grpc.aio.AioRpcError as error:
            codes = grpc.StatusCode
            if error.code() in {codes.RESOURCE_EXHAUSTED, codes.FAILED_PRECONDITION, codes.INVALID_ARGUMENT}:
                raise RefusedError(error.details() or error.code().name) from error
            raise mesh_error(error, address) from error


def seconds(text: str, option: str) -> float:
    """Return the seconds of a duration such as 30s, 5m or 1h30m; UsageError when it is none."""
    match = _DURATION.fullmatch(text.strip())
    if match is None or not any(match.groups()):
        raise UsageError(f"{option}: '{text}' is not a duration, such as 30s, 5m or 1h30m")
    units = (7 * 86400, 86400, 3600, 60, 1)
    total = sum(int(count) * unit for count, unit in zip(match.groups("0"), units, strict=True))
    if not total:
        raise UsageError(f"{option}: it must be longer than nothing")
    return float(total)


def moment(at_ms: int) -> str:
    """Return a time as people read it, in the machine's zone."""
    return datetime.fromtimestamp(at_ms / 1000, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def number(value: float) -> str:
    """Return a number in the six digits that people want; of large ones, such as bytes, all before the point."""
    return f"{value:.0f}" if 1e6 <= abs(value) < 1e15 else f"{value:.6g}"
