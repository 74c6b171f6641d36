"""A part of the mesh that runs alone says where it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mesh.cli.output import print_json, print_line
from mesh.runtime import Process


@dataclass
class Announcing(Process):
    """A part that a person started: it says on standard output when it is ready."""

    name: str = ""
    as_json: bool = False

    def ready(self, addresses: Mapping[str, str]) -> None:
        """Tell the supervisor or, when there is none, the person."""
        if self.ready_fd is not None:
            super().ready(addresses)
        elif self.as_json:
            print_json(dict(addresses), indent=None)
        else:
            print_line(f"{self.name} is ready: " + ", ".join(f"{key} {value}" for key, value in addresses.items()))
