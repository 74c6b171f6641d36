"""What can go wrong between a client and the control services."""

from __future__ import annotations

from mesh.errors import MeshError, Source


class RefusedError(MeshError):
    """The control service does not take what was asked; the same again would be refused again."""

    source = Source.DOWNSTREAM


class ReplacedError(MeshError):
    """Another registration took the same service and instance id."""

    source = Source.DOWNSTREAM
