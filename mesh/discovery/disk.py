"""The last state of the registry on disk, for a start while no control process answers."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import tempfile
from pathlib import Path

from google.protobuf.message import DecodeError

from mesh.api.registry import v1
from mesh.discovery.convert import advance, instance_to_proto
from mesh.discovery.model import Directory

# Written at most once in so many seconds, however fast the registry changes.
WRITE_SECONDS = 5.0
MAX_BYTES = 1 << 30
_MAGIC = b"mesh.registry.snapshot.1\n"
_DIGEST = 32


class SnapshotFile:
    """One file, replaced as a whole: it is always a state that was, and never half of one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._wanted: Directory | None = None
        self._wake = asyncio.Event()

    def load(self) -> Directory | None:
        """Return what was written last; None when there is nothing, or it is damaged."""
        try:
            if self.path.stat().st_size > MAX_BYTES:
                return None
            data = self.path.read_bytes()
        except OSError:
            return None
        digest, body = data[len(_MAGIC) :][:_DIGEST], data[len(_MAGIC) + _DIGEST :]
        if not data.startswith(_MAGIC) or hashlib.sha256(body).digest() != digest:
            return None
        with contextlib.suppress(DecodeError):
            return advance(Directory.EMPTY, v1.WatchResponse.FromString(body))
        return None

    def put(self, directory: Directory) -> None:
        """Write this state soon, unless a newer one comes before."""
        self._wanted = directory
        self._wake.set()

    async def run(self) -> None:
        """Write what is put until cancelled, and then what is left."""
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                await asyncio.to_thread(self._write)
                await asyncio.sleep(WRITE_SECONDS)
        finally:
            self._write()

    def _write(self) -> None:
        directory, self._wanted = self._wanted, None
        if directory is None:
            return
        body = encode(directory).SerializeToString()
        # A full disk must not take the edge with it: what is there stays, and the next state is tried again.
        with contextlib.suppress(OSError):
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=self.path.parent, prefix=f".{self.path.name}.")
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(_MAGIC + hashlib.sha256(body).digest() + body)
                    file.flush()
                    os.fsync(file.fileno())
                Path(name).replace(self.path)
            except BaseException:
                with contextlib.suppress(OSError):
                    Path(name).unlink()
                raise


def encode(directory: Directory) -> v1.WatchResponse:
    """Return a directory as the snapshot that it would come from."""
    response = v1.WatchResponse(header=v1.Header(cluster_id=directory.cluster_id, revision=directory.revision))
    for instance in directory.instances.values():
        message = instance_to_proto(instance)
        message.create_revision, message.mod_revision = instance.create_revision, instance.mod_revision
        message.serving_since_ms = round(instance.serving_since * 1000)
        message.protected = instance.protected
        response.snapshot.instances.append(message)
    for service in directory.services.values():
        response.snapshot.services.append(
            v1.Service(
                name=service.name,
                grpc_services=service.grpc_services,
                exposure=v1.EXPOSURE_PUBLIC if service.public else v1.EXPOSURE_INTERNAL,
                create_revision=service.create_revision,
            )
        )
    response.snapshot.SetInParent()
    return response
