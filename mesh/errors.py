"""What can go wrong, said so that a program can act on it: the kind, whose fault it is, whether to try again."""

from __future__ import annotations

import enum


class Source(enum.Enum):
    """Who caused an error."""

    DOWNSTREAM = "downstream"
    UPSTREAM = "upstream"
    INTERNAL = "internal"


class MeshError(Exception):
    """The root of the errors that the mesh raises on purpose.

    Its text is one sentence for a person that says what is wrong and, where it can, what to do.
    """

    source: Source = Source.INTERNAL
    retryable: bool = False


class UsageError(MeshError):
    """What was asked for makes no sense: a wrong option, a broken file. The command exits with 2."""

    source = Source.DOWNSTREAM


class StartError(MeshError):
    """A part cannot start: a port in use, a folder that cannot be written. The command exits with 1."""


class UnreachableError(MeshError):
    """A peer does not answer now; it may later."""

    source = Source.UPSTREAM
    retryable = True
