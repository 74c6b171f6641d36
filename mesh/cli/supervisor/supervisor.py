"""Starts the parts in order, keeps them running, and stops them in the other order."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterable, Sequence

from mesh.cli.output import Progress
from mesh.cli.supervisor import plan
from mesh.cli.supervisor.folder import Log
from mesh.cli.supervisor.part import Part, Spec
from mesh.cli.supervisor.ready import dialable, serving, serving_all
from mesh.cli.waiting import LeftError, unless
from services.names import TELEMETRY


class Supervisor:
    """Runs one mesh."""

    def __init__(self, options: plan.UpOptions, say: Callable[[str], None], progress: Progress) -> None:
        self._options = options
        self._say = say
        self._progress = progress
        # Started one after the other, so that each finds those that it needs.
        self.stages: list[list[Part]] = []

    @property
    def parts(self) -> list[Part]:
        """All parts, in the order of their start."""
        return [part for stage in self.stages for part in stage]

    async def run(self, stop: asyncio.Event, announce: Callable[[], None]) -> None:
        """Start everything, call `announce` when all is ready, and keep it running until `stop`.

        Raises:
            MeshError: it cannot be started; whatever ran is stopped again.

        """
        read_end, write_end = os.pipe()
        failure: Exception | None = None
        try:
            async with asyncio.TaskGroup() as tasks:
                try:
                    await self._start(tasks, read_end, stop)
                    announce()
                    await stop.wait()
                except LeftError:
                    pass
                except Exception as error:  # noqa: BLE001 - raised below, bare instead of in an exception group
                    failure = error
                finally:
                    self._progress.update("stopping")
                    await self._stop()
        finally:
            # Only now: its end tells the parts that the supervisor is gone.
            os.close(write_end)
            os.close(read_end)
        if failure is not None:
            raise failure

    async def _start(self, tasks: asyncio.TaskGroup, lifeline: int, stop: asyncio.Event) -> None:
        async def stage(name: str, specs: Sequence[Spec]) -> list[Part]:
            self._progress.update(f"starting {name}")
            logs, debug = self._options.data_dir / "logs", self._options.debug
            parts = [Part(spec, Log(logs / f"{spec.name}.log"), lifeline, self._say, debug=debug) for spec in specs]
            self.stages.append(parts)
            for part in parts:
                tasks.create_task(part.run(), name=part.name)
            await unless(_all(part.started for part in parts), stop.wait())
            return parts

        (control,) = await stage("the control services", [plan.control(self._options)])
        (edge,) = await stage("the edge", [plan.edge(self._options, control.addresses["control"])])
        internal = dialable(edge.addresses["internal"])
        instances = []
        if self._options.demo:
            specs = plan.demo(control.addresses["control"], self._options.edge.grace)
            instances = [part.name for part in await stage("the shop", specs)]
        self._progress.update("waiting for the edge")
        service = plan.DEMO_PUBLIC_SERVICE if instances else ""
        # Whether its certificates are good for the clients outside is not ours to tell.
        public = internal if self._options.edge.public_tls.enabled else edge.addresses["public"]
        workers = self._options.edge.workers
        await unless(serving(public, internal, instances, service, workers=workers), stop.wait())
        self._progress.update("waiting for the telemetry services")
        await unless(serving_all(control.addresses["control"], TELEMETRY), stop.wait())

    async def _stop(self) -> None:
        for stage in reversed(self.stages):
            await _all(part.stop(self._options.edge.grace) for part in stage)


async def _all(waits: Iterable[Awaitable[None]]) -> None:
    await asyncio.gather(*waits)
