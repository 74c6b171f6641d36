"""The edge's picture of the mesh, kept up to date by the registry watch, and whoever waits for it to change."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from mesh.discovery.model import Directory, Health
from mesh.edge.policy.document import Document
from mesh.edge.policy.precedence import resolve
from mesh.resilience.breaker import BreakerOptions
from proxy.call.limits import Limits
from proxy.engines.engine import INTERNAL, PUBLIC, WORKER
from proxy.routing.exposure import exposed
from proxy.routing.rules import Rules
from proxy.routing.table import EMPTY, RouteTable, compile_table
from proxy.upstream.endpoint import Endpoint
from proxy.upstream.plan import Plans, Policies
from proxy.upstream.pool import Changes, EndpointPool
from proxy.upstream.weighing import Weigh, plain


@dataclass
class MeshState:
    """Directory, endpoints and routes, replaced together."""

    breaker: BreakerOptions
    # By listener, the gRPC services that the edge answers itself.
    local: Mapping[str, Iterable[str]]
    directory: Directory = Directory.EMPTY
    tables: dict[str, RouteTable] = field(default_factory=dict)
    draining: bool = False
    plans: Plans = field(default_factory=Plans)
    # What the configuration says, and the limits of calls that follow from it.
    document: Document = field(default_factory=Document)
    limits: Limits = field(default_factory=Limits)
    # What each endpoint counts; it may change with time alone.
    weigh: Weigh = plain

    def __post_init__(self) -> None:
        """Start with nothing but what the edge answers itself."""
        self.pool = EndpointPool(self.breaker, self.plans)
        # As the registry has it, without what the configuration changes.
        self._registered = self.directory
        self._changed = asyncio.Event()
        self._compile()

    def update(self, directory: Directory, forget: Callable[[Iterable[Endpoint]], None]) -> None:
        """Follow the registry; endpoints that left are handed to `forget`."""
        self._registered = directory
        self.directory = directory = exposed(directory, self.document.exposure)
        gone = self.pool.update(directory)
        self.plans.retain(directory.services, self.pool.willing)
        self._compile()
        forget(gone)
        self._notify()

    def follow(self, policies: Policies) -> None:
        """Take other policies into force; calls under way go on under theirs."""
        self.plans.follow(policies)
        self.pool.update(self.directory)  # for its breakers' options
        self._compile()
        self._notify()

    def configure(self, document: Document, limits: Limits) -> None:
        """Take another release of the configuration into force; `limits` are the edge's under it."""
        self.document, self.limits = document, limits
        self.directory = exposed(self._registered, document.exposure)
        self.follow(functools.partial(resolve, document))

    def reweigh(self, changes: Changes) -> None:
        """Work out anew what endpoints count of which `changes` tells that they warm up, and when they are done."""
        if self.pool.reweigh(changes):
            self._compile()

    def drain(self) -> None:
        """Tell health checkers that this edge is about to leave."""
        self.draining = True
        self._notify()

    def next_change(self) -> asyncio.Event:
        """Return what the next change sets. Ask before looking at the state, else a change in between is missed."""
        return self._changed

    def table(self, listener: str) -> RouteTable:
        """Return the routes of a listener."""
        return self.tables.get(listener, EMPTY)

    def health(self, listener: str, name: str) -> Health | None:
        """Return the health of what `name` stands for on a listener; None when it is unknown there.

        "" is the edge. Else it is a gRPC service or a registered service: it serves when one live instance does.
        """
        if not name:
            return Health.DRAINING if self.draining else Health.SERVING
        table = self.table(listener)
        route = table.routes.get(name)
        if route is not None:
            if route.is_local:
                return Health.SERVING
            return Health.SERVING if route.targets.endpoints else Health.NOT_SERVING
        if name not in table.service_names:
            return None
        endpoints = [one for route in table.routes.values() if route.service == name for one in route.targets.endpoints]
        return Health.SERVING if endpoints else Health.NOT_SERVING

    def _compile(self) -> None:
        # In place: the dispatcher reads the same mapping.
        made = functools.partial(Rules, self.document, self.limits, self.plans)
        for listener in (PUBLIC, INTERNAL, WORKER):
            self.tables[listener] = compile_table(
                self.directory,
                self.pool,
                public_only=listener == PUBLIC,
                local=self.local.get(listener, ()),
                plans=self.plans,
                rules=functools.partial(made, listener) if self.document != Document() else None,
                weigh=self.weigh,
            )

    def _notify(self) -> None:
        waiting, self._changed = self._changed, asyncio.Event()
        waiting.set()
