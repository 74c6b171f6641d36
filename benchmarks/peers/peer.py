"""What a peer is: a proxy that can be put between the load client and the endpoints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from benchmarks.processes import Started


@dataclass(frozen=True, slots=True)
class Site:
    """Where a peer is set up."""

    # For its configuration and its logs; its own.
    folder: Path
    # Ports of the endpoints on 127.0.0.1.
    endpoints: Sequence[int]
    # Processes or threads that forward.
    workers: int = 1
    # Take calls by TLS, with the certificate of benchmarks/load/certificate.py; only the main peers are asked to.
    tls: bool = False


@dataclass(frozen=True, slots=True)
class Running:
    """A peer that runs: its processes, the port where it takes calls, and what it writes to."""

    started: Started
    port: int
    folder: Path


class Peer(Protocol):
    """One way to forward calls."""

    name: str
    # Runs in every case and every round; the others only show where the field is.
    main: bool

    def missing(self) -> str:
        """Return why it cannot run here, "" when it can."""
        ...

    def start(self, site: Site) -> Running:
        """Start it; raises FailedToStartError."""
        ...
