"""Where the services are that this process calls, and by what policies: followed live, from the first channel on."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence

from mesh.clock import Clock, SystemClock
from mesh.config.model import Subject, View
from mesh.config.snapshot import Snapshot
from mesh.config.watcher import ConfigWatcher
from mesh.discovery.model import Directory, Instance
from mesh.discovery.watcher import RegistryWatcher
from mesh.edge.policy.document import read
from mesh.edge.policy.precedence import resolve
from mesh.edge.schema import APPLICATION
from mesh.errors import MeshError
from mesh.resilience.policy import HedgeOptions, RoutePolicy
from mesh.sdk.connections import Connections
from mesh.sdk.options import JoinOptions
from mesh.sdk.upstream import Era, Upstream
from mesh.sdk.ways import Router, Ways

# How often weights are worked out anew while somebody warms up.
WARMING_SECONDS = 1.0

_log = logging.getLogger("mesh.client")


class Discovery:
    """The upstreams of one process."""

    def __init__(self, options: JoinOptions, clock: Clock | None = None) -> None:
        self._options = options
        self._clock = clock or SystemClock()
        self._connections = Connections()
        self._upstreams: dict[str, Upstream] = {}
        self._era = Era()
        self._router = Router(self.upstream)
        self._directory: Directory | None = None
        self._tasks: list[asyncio.Task[None]] = []
        folder = options.state
        self._registry = RegistryWatcher(
            options.control,
            self._follow,
            name=options.instance_id,
            state=folder / "registry.bin" if folder is not None else None,
        )
        subject = Subject(APPLICATION, options.service, options.instance_id, options.environment, dict(options.labels))
        self._config = ConfigWatcher(
            options.control,
            subject,
            self._take,
            snapshot=Snapshot(folder / f"{APPLICATION}.json") if folder is not None else None,
            on_event=lambda sentence: _log.debug("%s", sentence),
        )

    @property
    def release(self) -> int:
        """The number of the release of policies in force; 0 without any."""
        return self._config.current.release

    @property
    def connected(self) -> bool:
        """Whether the registry is in reach."""
        return self._registry.connected

    def upstreams(self) -> list[Upstream]:
        """Return all that are called."""
        return list(self._upstreams.values())

    def upstream(self, name: str) -> Upstream:
        """Return a service as its callers see it; it is followed from now on."""
        found = self._upstreams.get(name)
        if found is None:
            found = Upstream(name, self._options.zone, self._connections, self._policy, self._clock, self._era)
            found.ways_of = self._ways_of
            found.others = self._names
            self._upstreams[name] = found
            if self._directory is not None:
                found.follow(_instances(self._directory, name))
            if not self._tasks:
                work = (self._registry.run(), self._follow_policies(), self._warm())
                self._tasks = [asyncio.create_task(one) for one in work]
        return found

    async def close(self) -> None:
        """Follow no more, and close all connections: the calls on them end."""
        for task in self._tasks:
            task.cancel()
        for ended in await asyncio.gather(*self._tasks, return_exceptions=True):
            if isinstance(ended, Exception):
                _log.error("the registry was not followed any more", exc_info=ended)
        self._tasks.clear()
        await self._connections.close()
        channels = [one.let_go() for upstream in self._upstreams.values() for one in upstream.close()]
        await asyncio.gather(*(channel.close() for channel in channels if channel is not None))

    def _follow(self, directory: Directory) -> None:
        self._directory = directory
        by_name: dict[str, list[Instance]] = {name: [] for name in self._upstreams}
        for instance in directory.instances.values():
            if instance.service in by_name:
                by_name[instance.service].append(instance)
        for name, instances in by_name.items():
            self._upstreams[name].follow(instances)

    def _take(self, view: View, _before: View) -> None:
        """Take the policies of a release into force; what this raises is reported as why it was rejected."""
        try:
            document = read(view.content)
        except MeshError as error:
            _log.warning("release %d of %s is rejected: %s", view.release, APPLICATION, error)
            raise
        self._router.document = document
        for upstream in self._upstreams.values():
            upstream.renew()

    def _policy(self, service: str, method: str) -> RoutePolicy | None:
        return resolve(self._router.document, service, method)

    def _ways_of(self, service: str, method: str, hedges: Mapping[str, HedgeOptions]) -> Ways | None:
        routes = self._router.document.routes
        if not routes or self._directory is None:
            return None
        declared = {
            to.service: {
                name
                for one in self._directory.instances.values()
                if one.service == to.service
                for name in one.grpc_services
            }
            for route in routes
            for to in route.to
        }
        return self._router.ways(service, method, declared, hedges)

    def _names(self) -> Sequence[str]:
        return sorted(self._directory.services) if self._directory is not None else ()

    async def _follow_policies(self) -> None:
        try:
            await self._config.run()
        except MeshError as error:
            _log.warning("calls go without policies: %s", error)

    async def _warm(self) -> None:
        while True:
            await asyncio.sleep(WARMING_SECONDS)
            for upstream in self._upstreams.values():
                if upstream.is_warming():
                    upstream.renew()


def _instances(directory: Directory, name: str) -> list[Instance]:
    return [one for one in directory.instances.values() if one.service == name]
