"""What a worker is told by its master: which one it is, and what it has to serve."""

from __future__ import annotations

import dataclasses
import json
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mesh.errors import UsageError


@dataclass(frozen=True, slots=True)
class Place:
    """A worker's place in its edge."""

    index: int
    # The edge's own: what clients and operators call.
    addresses: Mapping[str, str]
    # Where it serves its own admin port, a unix socket, and where it leaves its last metrics.
    admin: str
    last_metrics: str
    # The sockets it takes over, by listener; none where the engine binds its own.
    fds: Mapping[str, int] = field(default_factory=dict)
    # It takes over from a worker that goes on until this one is ready: it has time to learn the routes first.
    replaces: bool = False

    def to_json(self) -> str:
        """Return it as the argument of a command."""
        return json.dumps(dataclasses.asdict(self), separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Place:
        """Return what `to_json` wrote.

        Raises:
            UsageError: it is something else.

        """
        try:
            return cls(**json.loads(text))
        except (TypeError, ValueError) as error:
            raise UsageError("--worker is for the workers of an edge, which `mesh edge --workers N` starts") from error

    def take_over(self, listener: str) -> socket.socket | None:
        """Return the listening socket of a listener; None where the engine makes its own."""
        fd = self.fds.get(listener)
        return None if fd is None else socket.socket(fileno=fd)

    def leave(self, metrics: bytes) -> None:
        """Leave the last metrics for the master, all or nothing."""
        path = Path(self.last_metrics)
        unfinished = path.with_suffix(".part")
        unfinished.write_bytes(metrics)
        unfinished.replace(path)
