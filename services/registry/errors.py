"""What the registry refuses, beside fields that are wrong."""

from __future__ import annotations

from mesh.api.registry.v1 import LEASE_STATE_REPLACED, LeaseState
from mesh.errors import MeshError, Source


class LeaseLostError(MeshError):
    """The lease does not keep an instance (any more)."""

    source = Source.DOWNSTREAM

    def __init__(self, state: LeaseState.ValueType) -> None:
        replaced = state == LEASE_STATE_REPLACED
        super().__init__(
            "lease_id: another registration took this service and instance id: stop, or take another id"
            if replaced
            else "lease_id: this lease is unknown or has expired: register again"
        )
        self.state = state


class UnknownInstanceError(MeshError):
    """No such instance lives."""

    source = Source.DOWNSTREAM

    def __init__(self, name: str, hint: str = "") -> None:
        super().__init__(f"no instance '{name}' is registered{hint and f': {hint}'}")
        self.name = name


class TooSlowError(MeshError):
    """A watcher takes nothing of what it is sent."""

    source = Source.DOWNSTREAM
    retryable = True
