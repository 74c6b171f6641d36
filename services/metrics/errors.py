"""What can go wrong with metrics, besides queries (see promql/errors.py)."""

from __future__ import annotations

from mesh.errors import MeshError, Source


class MetricsError(MeshError):
    """The root of these."""


class InvalidError(MetricsError):
    """What came in makes no sense."""

    source = Source.DOWNSTREAM


class NotFoundError(MetricsError):
    """What was named is not there."""

    source = Source.DOWNSTREAM


class BusyError(MetricsError):
    """Too much is asked for at a time."""

    retryable = True
