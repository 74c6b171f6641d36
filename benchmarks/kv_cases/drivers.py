"""A store of each driver, empty, with nothing switched off: every acknowledged write is on disk."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from services.storage.kv.base import Store
from services.storage.kv.embedded import EmbeddedStore
from services.storage.kv.etcd.options import EtcdOptions
from services.storage.kv.etcd.store import EtcdStore


@dataclass(frozen=True)
class Opened:
    store: Store


class Driver(Protocol):
    name: str

    def opened(self, folder: Path) -> contextlib.AbstractAsyncContextManager[Opened]: ...


class Sqlite:
    name = "sqlite"

    @contextlib.asynccontextmanager
    async def opened(self, folder: Path) -> AsyncIterator[Opened]:
        async with EmbeddedStore.open(folder / "kv.db") as store:
            yield Opened(store)


class Etcd:
    """One member with its own defaults."""

    name = "etcd"

    @contextlib.asynccontextmanager
    async def opened(self, folder: Path) -> AsyncIterator[Opened]:
        with etcd(folder) as address:
            async with EtcdStore(EtcdOptions((address,))) as store:
                yield Opened(store)


def drivers() -> list[Driver]:
    return [Sqlite(), Etcd()]


@contextlib.contextmanager
def etcd(folder: Path) -> Iterator[str]:
    """Run an etcd while the block runs; gives its address."""
    folder.mkdir(parents=True)
    with socket.socket() as one, socket.socket() as two:
        one.bind(("127.0.0.1", 0))
        two.bind(("127.0.0.1", 0))
        client, peer = (f"127.0.0.1:{held.getsockname()[1]}" for held in (one, two))
    with (folder / "log").open("wb") as log:
        command = [str(Path(sys.executable).parent / "etcd"), "--data-dir", str(folder / "data"), "--name", "m"]
        urls = ["--listen-client-urls", f"http://{client}", "--advertise-client-urls", f"http://{client}"]
        peers = ["--listen-peer-urls", f"http://{peer}", "--initial-advertise-peer-urls", f"http://{peer}"]
        cluster = ["--initial-cluster", f"m=http://{peer}", "--log-level", "error"]
        process = subprocess.Popen(
            [*command, *urls, *peers, *cluster], stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    try:
        host, _, port = client.rpartition(":")
        while process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection((host, int(port)), 1):
                break
            time.sleep(0.05)
        yield client
    finally:
        process.kill()
        process.wait()
