"""The collector of cycles in a process that handles calls."""

from __future__ import annotations

import gc

# Objects that outlive their makers before the young are looked at; how often that is before the older ones are.
_THRESHOLDS = (10_000, 20, 20)


def settle_memory() -> None:
    """Keep the collector from looking at the same objects over and over: 3 % of a call.

    What is there at the start stays, and what a call makes goes without it, once the access log has taken it.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_THRESHOLDS)
