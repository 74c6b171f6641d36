"""What the configuration asks the registry."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from mesh.api.registry.v1 import Instance


class Fleet(Protocol):
    """The live instances; `services.registry.domain.Registry` is one."""

    def instances(self) -> Iterable[Instance]:
        """Return all live instances."""
        ...

    def holds(self, lease_id: int, service: str, instance_id: str) -> bool:
        """Tell whether the lease keeps that instance: who knows it speaks for the instance."""
        ...
