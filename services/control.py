"""The control process: the control services of one mesh, on one store, behind one port."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib
import secrets
import socket
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from mesh.api.config.v1 import add_ConfigServicer_to_server
from mesh.api.registry.v1 import (
    EXPOSURE_INTERNAL,
    HEALTH_SERVING,
    LEASE_STATE_LIVE,
    Instance,
)
from mesh.listening import bound
from mesh.options import config_keys, parse_address, require
from mesh.runtime import Process
from mesh.tls.identity import Identity
from mesh.tls.options import ListenerTls
from services.config import shipped
from services.config.domain import Config
from services.config.keys import KeyRing
from services.config.servicer import SERVICE as CONFIG
from services.config.servicer import GrpcConfig
from services.forwarding.options import Target
from services.host import Host, Hosted
from services.later import Later, Opening
from services.metrics.alerts.receivers import Receiver
from services.metrics.pull.targets import METRICS as METRICS_METADATA
from services.names import MAX_TELEMETRY_BYTES, TELEMETRY
from services.registry import validation
from services.registry.domain import Registry
from services.registry.peers import SERVICE
from services.registry.servicer import SERVICE as REGISTRY
from services.registry.servicer import add_registry
from services.retention import Retention
from services.storage.columns.urls import DUCKDB, check_columns_url
from services.storage.kv.base import StorageError, Store
from services.storage.kv.embedded import EmbeddedStore
from services.storage.kv.urls import check_url, is_etcd, open_store

LISTEN_OPTION = "--listen"
HTTP_OPTION = "--http"
DATABASE = "kv.db"
TELEMETRY_DATABASE = "telemetry.duckdb"
# A telemetry store that is none: there are no telemetry services then.
OFF = "off"
# Decoding, and every write, makes records by the thousand, and they never refer to each other in circles: looking for
# such took a quarter of the time. (No gc.freeze: DuckDB's module reports what is frozen as leaked at the end.)
GC_THRESHOLDS = (50_000, 20, 50)
DEFAULT_GRACE = 5.0

_ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}  # noqa: S104 - looked for, not bound


@dataclass(frozen=True, slots=True)
class ControlOptions:
    """What a control process is told."""

    # "HOST:PORT"; port 0 is any that is free.
    listen: str
    # Made if it does not exist; one control process at a time uses it.
    data_dir: Path
    # The URL of what holds the state, when it is not a file in `data_dir`; any number of processes may use one etcd.
    store: str = ""
    # The URL of what holds logs, spans and metrics, when it is not a file in `data_dir`; OFF serves none of them.
    telemetry_store: str = ""
    # Seconds that unary calls get to finish when the process stops.
    grace: float = DEFAULT_GRACE
    # Keys for secrets, one a line; None takes the environment's.
    config_key_file: Path | None = None
    # Unset is plaintext.
    tls: ListenerTls = field(default_factory=ListenerTls)
    # "HOST:PORT" for Prometheus' HTTP API; "" serves none.
    http: str = ""
    # Where alerts are sent.
    receivers: tuple[Receiver, ...] = ()
    # Collectors that all telemetry is sent on to.
    forward: tuple[Target, ...] = ()
    # How long telemetry is kept, and how much.
    keep: Retention = field(default_factory=Retention)

    def __post_init__(self) -> None:
        object.__setattr__(self, "listen", parse_address(self.listen, LISTEN_OPTION, port_zero=True))
        if self.store:
            check_url(self.store)
        if self.http:
            object.__setattr__(self, "http", parse_address(self.http, HTTP_OPTION, port_zero=True))
        if self.telemetry_store == OFF:
            why = "it stands on the telemetry store, which is off"
            require(not self.http, f"{HTTP_OPTION}: {why}")
            require(not self.receivers, f"--alert-webhook, --alertmanager: {why}")
            require(not self.forward, f"--forward: {why}")
        elif self.telemetry_store:
            check_columns_url(self.telemetry_store)
        for target in self.forward:
            target.files()
        require(0 <= self.grace <= 3600, f"--grace: '{self.grace:g}' is not a number of seconds from 0 to 3600")


async def run_control(options: ControlOptions, process: Process) -> None:
    """Serve until `process.stop` is set.

    Raises:
        StartError: the data directory or the address cannot be used.

    """
    keys = KeyRing.parse(config_keys(options.config_key_file))
    tls = Identity("control", options.tls) if options.tls.enabled else None
    async with (
        _followed(tls),
        _store(options) as store,
        Registry(store, me=(me := _my_id(options, store))) as registry,
        Config(store, registry, keys) as config,
        contextlib.AsyncExitStack() as stack,
    ):
        await shipped.register(config)
        services = [
            Hosted(REGISTRY, lambda server: add_registry(registry, server)),
            Hosted(CONFIG, lambda server: add_ConfigServicer_to_server(GrpcConfig(config), server)),
        ]
        host = Host(options.listen, services, option=LISTEN_OPTION, max_receive_bytes=MAX_TELEMETRY_BYTES, tls=tls)
        names = [hosted.name for hosted in services]
        addresses = {}
        later = None
        if options.telemetry_store != OFF:
            names += TELEMETRY
            http = None
            if options.http:
                http = stack.enter_context(await bound(options.http, HTTP_OPTION))
                addresses["http"] = f"{options.http.rpartition(':')[0]}:{http.getsockname()[1]}"
            later = Later(host, TELEMETRY, "the telemetry store", _telemetry(options, store, registry, me, http))
            await stack.enter_async_context(later)
        addresses = {"control": await host.start(), **addresses}
        gc.set_threshold(*GC_THRESHOLDS)
        try:
            metadata = {METRICS_METADATA: addresses["http"]} if "http" in addresses else {}
            metadata |= {"tls": "on"} if tls is not None else {}
            async with _registered(registry, addresses["control"], me, names, metadata):
                process.ready(addresses)
                if later is not None:
                    later.begin()
                await process.stop.wait()
        finally:
            await host.stop(options.grace)


@contextlib.asynccontextmanager
async def _followed(tls: Identity | None) -> AsyncIterator[None]:
    """Look at the TLS files for as long as the context is open."""
    if tls is None:
        yield
        return
    watching = asyncio.create_task(tls.watch())
    try:
        yield
    finally:
        watching.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watching


def _my_id(options: ControlOptions, store: Store) -> str:
    """Return the instance id: on a file always the same, to replace what a killed process left; on etcd are others."""
    return f"control-{secrets.token_hex(4) if is_etcd(options.store) else store.header.cluster_id[:8]}"


def _store(options: ControlOptions) -> Store:
    if options.store:
        return open_store(options.store)
    return EmbeddedStore.open(options.data_dir / DATABASE)


def _telemetry(
    options: ControlOptions, store: Store, registry: Registry, me: str, http: socket.socket | None
) -> Opening:
    """Return what loads and opens the telemetry services."""
    url = options.telemetry_store or f"{DUCKDB}://{quote(str((options.data_dir / TELEMETRY_DATABASE).absolute()))}"

    async def opening() -> contextlib.AbstractAsyncContextManager[Sequence[Hosted]]:
        # It takes long, and there are calls meanwhile.
        module = await asyncio.to_thread(importlib.import_module, "services.telemetry")
        made: contextlib.AbstractAsyncContextManager[Sequence[Hosted]] = module.telemetry(
            url,
            store,
            registry,
            me=(SERVICE, me),
            http=http,
            receivers=options.receivers,
            disks=(options.data_dir,),
            forward=options.forward,
            spool=options.data_dir / "forward",
            keep=options.keep,
        )
        return made

    return opening


@contextlib.asynccontextmanager
async def _registered(
    registry: Registry, address: str, instance_id: str, grpc_services: list[str], metadata: dict[str, str]
) -> AsyncIterator[None]:
    """Keep this process in its own registry."""
    host, _, port = address.rpartition(":")
    instance = Instance(
        service=SERVICE,
        instance_id=instance_id,
        endpoints=[f"{_ANY_ADDRESS.get(host, host)}:{port}"],
        weight=validation.DEFAULT_WEIGHT,
        grpc_services=grpc_services,
        exposure=EXPOSURE_INTERNAL,
        health=HEALTH_SERVING,
        metadata=metadata,
    )
    lease_id = (await registry.register(instance, validation.DEFAULT_TTL)).lease_id

    async def keep() -> None:
        nonlocal lease_id
        while True:
            await asyncio.sleep(validation.DEFAULT_TTL / 3)
            with contextlib.suppress(StorageError):  # a full disk, say: the next time may do
                state, _ = await registry.keepalive(lease_id)
                if state != LEASE_STATE_LIVE:
                    lease_id = (await registry.register(instance, validation.DEFAULT_TTL)).lease_id

    keeper = asyncio.create_task(keep())
    try:
        yield
    finally:
        keeper.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await keeper
        with contextlib.suppress(StorageError):
            await registry.deregister(lease_id)
