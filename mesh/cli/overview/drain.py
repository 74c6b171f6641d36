"""What `mesh drain` does: asks for the drain, and tells how it goes on."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import grpc

from mesh.api.registry.v1 import (
    WAITING_CAUSE_CANNOT,
    DrainRequest,
    DrainResponse,
    InstanceName,
    RegistryStub,
    Waiting,
    WaitingCause,
)
from mesh.cli.output import print_json, print_line, progress
from mesh.discovery.channel import control_channel, mesh_error
from mesh.errors import MeshError, UnreachableError
from mesh.runtime import EXIT_FAILED, EXIT_OK, Process

# Beyond the time that the control process waits.
MARGIN = 10.0
_SHOWN = 5
_CAUSES = {
    "PENDING": "has not answered",
    "CANNOT": "cannot acknowledge",
    "AWAY": "lost its connection",
    "CONTROL": "a control process that does not answer",
}


class Drain:
    """One drain, or its end."""

    def __init__(self, control: str, instance: str, *, reason: str, timeout: float, undo: bool) -> None:
        self._control = control
        service, _, instance_id = instance.rpartition("/")
        self._request = DrainRequest(
            instance=InstanceName(service=service, instance_id=instance_id),
            timeout_seconds=timeout,
            reason=reason,
            cancel=undo,
        )
        self.exit_code = EXIT_OK

    async def run(self, process: Process, *, as_json: bool) -> None:
        """Drain, and print what came of it.

        Raises:
            MeshError: there is no such instance, or the registry does not answer.

        """
        *others, last = self._control.split(",")
        for address in others:
            try:
                return await self._run_at(address, process, as_json=as_json)
            except UnreachableError:
                continue
        return await self._run_at(last, process, as_json=as_json)

    async def _run_at(self, control: str, process: Process, *, as_json: bool) -> None:
        done = DrainResponse()
        async with control_channel(control) as channel:
            call: Any = RegistryStub(channel).Drain(self._request, timeout=self._request.timeout_seconds + MARGIN)
            try:
                with progress() as shown:
                    async for step in call:
                        done = step
                        shown.update(_sentence(step))
                        if process.stop.is_set():
                            break
            except grpc.aio.AioRpcError as error:
                raise mesh_error(error, control) from error
        if not done.done:
            raise MeshError("the drain goes on, and is not waited for any longer")
        self._tell(done, as_json=as_json)

    def _tell(self, done: DrainResponse, *, as_json: bool) -> None:
        name = f"{done.instance.service}/{done.instance.instance_id}"
        silent = [one for one in done.waiting if one.cause != WAITING_CAUSE_CANNOT]
        if not self._request.cancel and silent:
            self.exit_code = EXIT_FAILED
        if as_json:
            print_json(_structure(done))
        elif self._request.cancel:
            print_line(f"{name} is no longer drained: it gets calls again, if it wants any.")
        else:
            acknowledged = f"{done.acknowledged} watcher{'s' if done.acknowledged != 1 else ''}"
            exits = "It may still get calls from these." if silent else "It may exit."
            named = _named(done.waiting, done.waiting_count)
            print_line(f"{name} is draining: {acknowledged} acknowledged{named}. {exits}")


def _sentence(step: DrainResponse) -> str:
    return (
        f"draining {step.instance.service}/{step.instance.instance_id}: {step.acknowledged} acknowledged"
        f"{_named(step.waiting, step.waiting_count)}"
    )


def _named(waiting: Iterable[Waiting], count: int) -> str:
    shown = [f"{one.watcher} ({_CAUSES.get(_cause(one), '?')})" for one in waiting][:_SHOWN]
    if not shown:
        return ""
    more = count - len(shown)
    return f", {count} did not: {', '.join(shown)}" + (f" and {more} more" if more > 0 else "")


def _structure(done: DrainResponse) -> dict[str, Any]:
    return {
        "service": done.instance.service,
        "instance_id": done.instance.instance_id,
        "revision": done.drain_revision,
        "acknowledged": done.acknowledged,
        "not_acknowledged": [{"watcher": one.watcher, "cause": _cause(one)} for one in done.waiting],
        "not_acknowledged_count": done.waiting_count,
    }


def _cause(one: Waiting) -> str:
    return WaitingCause.Name(one.cause).removeprefix("WAITING_CAUSE_")
