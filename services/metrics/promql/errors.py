"""What can be wrong with a query."""

from __future__ import annotations

from mesh.errors import MeshError, Source


class PromqlError(MeshError):
    """The query cannot be answered; its text says why."""

    source = Source.DOWNSTREAM


class ParseError(PromqlError):
    """It is not PromQL, or of a part of it that is not served."""


class EvaluationError(PromqlError):
    """It is PromQL, but has no answer for the samples that are there."""


class LimitError(PromqlError):
    """It would take more than one query may."""


class StepsError(LimitError):
    """A range has more steps than are served; Prometheus calls that a bad request."""


class QueryTimeoutError(PromqlError):
    """It took longer than it may."""
