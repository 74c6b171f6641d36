"""An instance in the registry: registered while it serves, with its health, until it leaves."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from mesh.discovery.model import Health, Instance
from mesh.discovery.registration import Registration
from mesh.errors import MeshError
from mesh.sdk.options import PUBLIC, JoinOptions
from mesh.sdk.readiness import Readiness
from mesh.sdk.server import Server

# Callers have put into force that it leaves; calls that they sent before reach it in this time.
SETTLE_SECONDS = 0.25

_log = logging.getLogger("mesh.server")


class Membership:
    """Keeps one instance registered. `run` is its task."""

    def __init__(self, options: JoinOptions, address: str, grpc_services: Sequence[str], ready: Readiness) -> None:
        self._options = options
        self._ready = ready
        metadata = dict(options.labels)
        if options.tls.enabled:
            metadata["tls"] = "on"
        self._registration = Registration(
            options.control,
            Instance(
                service=options.service,
                instance_id=options.instance_id,
                endpoints=(address,),
                version=options.version,
                zone=options.zone,
                weight=options.weight,
                metadata=metadata,
                grpc_services=tuple(grpc_services),
                public=options.exposure == PUBLIC,
                health=Health.SERVING if ready.is_set else Health.STARTING,
                health_reason=ready.why,
                warm_up_seconds=options.warm_up_seconds,
            ),
            ttl=options.ttl_seconds,
            on_event=self._heard,
            drain=options.drain_seconds,
        )
        # Its answer was yes at least once.
        self._served = ready.is_set
        self._known = False
        self._wake = asyncio.Event()
        ready.follow(self._tell)

    @property
    def lease_id(self) -> int:
        """Return the lease; 0 while there is none."""
        return self._registration.lease_id

    async def registered(self) -> None:
        """Wait until the registry has taken the instance for the first time."""
        await self._registration.registered()

    async def run(self) -> None:
        """Keep it registered until cancelled; then it leaves.

        Raises:
            RefusedError: the registry does not take this instance.
            ReplacedError: another one took its service and id.

        """
        try:
            await self._registration.run()
        except MeshError as error:
            _log.error("%s leaves the mesh: %s", self._options.service, error)
            raise
        finally:
            self._ready.follow(lambda: None)

    async def tell(self, server: Server) -> None:
        """Say by grpc.health.v1, until cancelled, whether this instance wants calls and can be found."""
        known = asyncio.ensure_future(self._wait_known())
        try:
            while True:
                await server.tell(serving=self._ready.is_set and (self._known or self._options.serve_without_control))
                await self._wake.wait()
                self._wake.clear()
        finally:
            known.cancel()
            await asyncio.gather(known, return_exceptions=True)

    async def _wait_known(self) -> None:
        await self._registration.registered()
        self._known = True
        self._wake.set()

    def _tell(self) -> None:
        ready = self._ready
        self._served = self._served or ready.is_set
        otherwise = Health.NOT_SERVING if self._served else Health.STARTING
        self._registration.set_health(Health.SERVING if ready.is_set else otherwise, ready.why)
        self._wake.set()

    def _heard(self, sentence: str) -> None:
        level = logging.WARNING if "retrying" in sentence or "gone" in sentence else logging.INFO
        _log.log(level, "%s: %s", self._options.service, sentence)
