"""Trace contexts: W3C `traceparent` read and made, span ids, and which traces are kept.

What mesh.correlation takes for a traceparent is one here as well; this module only takes it apart.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from mesh import correlation

# The same as mesh.correlation's, which mypyc cannot look up here.
TRACEPARENT = b"traceparent"
TRACESTATE = b"tracestate"

_ID_BYTES = 8
_POOL_IDS = 512
_NINE = ord("9")
# The digits of a trace id that are random (W3C Trace Context, level 2): its last 56 bits.
_RANDOM_DIGITS = 14
_NUMBERS = 1 << 4 * _RANDOM_DIGITS


def _fresh_ids() -> Iterator[bytes]:
    while True:
        pool = os.urandom(_ID_BYTES * _POOL_IDS).hex().encode()
        for start in range(0, len(pool), 2 * _ID_BYTES):
            yield pool[start : start + 2 * _ID_BYTES]


_ids = _fresh_ids()


def _restart() -> None:
    global _ids  # noqa: PLW0603 - as in mesh.correlation
    _ids = _fresh_ids()


os.register_at_fork(after_in_child=_restart)


def new_span_id() -> bytes:
    """Return a new random span id: 16 hexadecimal digits."""
    return next(_ids)


def new_trace_id() -> bytes:
    """Return a new random trace id: 32 hexadecimal digits."""
    return correlation.new_id()


def make(trace_id: bytes, span_id: bytes, *, sampled: bool) -> bytes:
    """Return a traceparent that says that the span `span_id` calls."""
    return b"00-" + trace_id + b"-" + span_id + (b"-01" if sampled else b"-00")


def parse(traceparent: bytes) -> tuple[bytes, bytes, bool] | None:
    """Return trace id, span id and whether the trace is sampled; None when it is malformed."""
    trace_id = correlation.trace_id(traceparent)
    return None if trace_id is None else (trace_id, span_of(traceparent), is_sampled(traceparent))


def is_sampled(traceparent: bytes) -> bool:
    """Tell whether a well-formed traceparent says that its trace is kept."""
    # It is the last bit of the last digit of the flags: odd for 1, 3 ... 9 and for b, d, f, whose characters are even.
    digit = traceparent[54]
    return bool(digit & 1) is (digit <= _NINE)


def span_of(traceparent: bytes) -> bytes:
    """Return the span id of a well-formed traceparent."""
    return traceparent[36:52]


def threshold(share: float) -> bytes:
    """Return what `in_share` compares with, such that it holds for this share of all traces, 0 to 1."""
    least = round((1 - share) * _NUMBERS)
    return b"%014x" % least if least < _NUMBERS else b"g"  # which is behind all digits


def in_share(trace_id: bytes, bound: bytes) -> bool:
    """Tell whether a trace is in the share that `threshold` made `bound` of.

    Everybody who asks for the same share, in whatever language, says the same of a trace: OpenTelemetry's consistent
    probability sampling keeps what is not below (1 - share) of 2^56, too. Who asks for more keeps at least as much.
    """
    # Hexadecimal digits of one length are in the order of their numbers.
    return trace_id[-_RANDOM_DIGITS:] >= bound
