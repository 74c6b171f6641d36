"""What gRPC's core is told so that it prints nothing beside our own lines, and who is spared of that."""

from __future__ import annotations

import os

_OURS = {
    # An error is one line, ours: the core would print its own beside it. `--debug` leaves them in.
    "GRPC_VERBOSITY": "NONE",
    # We fork only to run another program at once, for which the core need do nothing, nor say that it does not.
    "GRPC_ENABLE_FORK_SUPPORT": "0",
}


def quieten() -> None:
    """Quieten the core, which reads this when it is imported; what the user has set stays."""
    for name, value in _OURS.items():
        os.environ.setdefault(name, value)


def environment() -> dict[str, str]:
    """Return the environment of a program that is not ours: without what `quieten` set."""
    return {name: value for name, value in os.environ.items() if _OURS.get(name) != value}
