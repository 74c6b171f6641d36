"""Series as small graphs of text. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

_BARS = " ▁▂▃▄▅▆▇█"


def spark(points: Sequence[tuple[int, float]], start: int, end: int, width: int) -> str:
    """Return `width` columns from `start` to `end`, each as high as the mean of its points; a blank has none."""
    buckets: list[list[float]] = [[] for _ in range(width)]
    span = max(end - start, 1)
    for at, value in points:
        if math.isfinite(value):
            buckets[min(width - 1, max(0, (at - start) * width // span))].append(value)
    means = [sum(bucket) / len(bucket) if bucket else None for bucket in buckets]
    known = [mean for mean in means if mean is not None]
    if not known:
        return " " * width
    low, high = min(known), max(known)
    room = high - low
    return "".join(
        " " if mean is None else _BARS[1 + round((mean - low) / room * 7)] if room > 0 else _BARS[4] for mean in means
    )
