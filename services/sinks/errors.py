"""What the sinks raise beside what their store does."""

from __future__ import annotations

from mesh.errors import MeshError, Source


class InvalidError(MeshError):
    """What was asked makes no sense; the message says what."""

    source = Source.DOWNSTREAM


class NotThereError(MeshError):
    """What was asked for by its id is not there."""

    source = Source.DOWNSTREAM
