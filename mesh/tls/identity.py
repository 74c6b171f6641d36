"""TLS files that are watched: what is good in them is in force, for new connections, soon after it is written."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Mapping

from mesh.errors import StartError
from mesh.tls.material import Material, load_listener, load_upstream
from mesh.tls.options import ListenerTls, UpstreamTls

POLL_SECONDS = 1.0

_log = logging.getLogger(__name__)


class Identity:
    """One set of files, and the last good content of them."""

    def __init__(self, name: str, options: ListenerTls | UpstreamTls) -> None:
        """Load it. Raises StartError."""
        # "public", "internal" or "upstream".
        self.name = name
        self.options = options
        self.failures = 0
        self._files = options.files
        self._in_force = self._seen = self._stamp()
        # The system's authorities are read when first needed: mostly they are not.
        self._material = self._load() if self._files else None
        # Called with the new material when it is in force.
        self.on_change: list[Callable[[Material], None]] = []

    @property
    def material(self) -> Material:
        """What is in force."""
        if self._material is None:
            self._material = self._load()
        return self._material

    @property
    def asks_clients(self) -> bool:
        """Whether who connects is asked for a certificate."""
        return isinstance(self.options, ListenerTls) and bool(self.options.client_ca)

    @property
    def not_after(self) -> float | None:
        """When the certificate in force ends, in seconds since 1970; None without one."""
        return self._material.not_after if self._material is not None else None

    def check(self) -> None:
        """Look at the files. What changed is loaded when it has not changed any more since the last look.

        A certificate and its key are two files: looked at between the two, they would not fit together.
        """
        stamp = self._stamp()
        settled, self._seen = stamp == self._seen, stamp
        if stamp == self._in_force or not settled:
            return
        self._in_force = stamp  # a broken file is reported once
        try:
            material = self._load()
        except StartError as error:
            self.failures += 1
            _log.error("%s; the last good files of %s stay in force", error, self.name)
            return
        self._material = material
        _log.info("the TLS files of %s were read anew", self.name)
        for changed in tuple(self.on_change):
            changed(material)

    async def watch(self) -> None:
        """Look at the files for ever."""
        while True:
            await asyncio.sleep(POLL_SECONDS)
            self.check()

    def _load(self) -> Material:
        options = self.options
        return load_listener(options) if isinstance(options, ListenerTls) else load_upstream(options)

    def _stamp(self) -> tuple[tuple[int, int, int] | None, ...]:
        return tuple(map(_stamp, self._files))


def _stamp(path: str) -> tuple[int, int, int] | None:
    try:
        found = os.stat(path)  # noqa: PTH116 - a dozen a second
    except OSError:
        return None
    # Not the time alone: a file can be replaced twice within its resolution.
    return found.st_mtime_ns, found.st_size, found.st_ino


class Tls:
    """Everything TLS of one edge."""

    def __init__(self, listeners: Mapping[str, ListenerTls], upstream: UpstreamTls) -> None:
        """Load all files. Raises StartError."""
        self.listeners = {name: Identity(name, options) for name, options in listeners.items() if options.enabled}
        self.upstream = Identity("upstream", upstream)

    @property
    def identities(self) -> list[Identity]:
        return [*self.listeners.values(), self.upstream]

    @property
    def has_files(self) -> bool:
        return any(identity.options.files for identity in self.identities)

    async def watch(self) -> None:
        """Look at the files for ever."""
        await asyncio.gather(*(identity.watch() for identity in self.identities))
