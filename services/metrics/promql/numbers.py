"""Numbers as text, the way Go writes them."""

from __future__ import annotations

import math
from decimal import Decimal


def formatted(value: float) -> str:
    """Return the shortest text that is this number, without an exponent: labels of `count_values`."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    text = format(Decimal(repr(value)), "f")
    return text.removesuffix(".0")


def exchanged(value: float) -> str:
    """Return a number as Prometheus' HTTP API has it: very large and small ones with an exponent."""
    size = abs(value)
    if not size or math.isnan(value) or math.isinf(value) or 1e-6 <= size < 1e21:
        return formatted(value)
    mantissa, _, exponent = format(Decimal(repr(value)).normalize(), "e").lower().partition("e")
    power = int(exponent)
    digits = f"{abs(power):02d}"
    return f"{mantissa.rstrip('0').rstrip('.') if '.' in mantissa else mantissa}e{'-' if power < 0 else '+'}{digits}"
