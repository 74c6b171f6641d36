"""Which failed attempts may be made again elsewhere without anybody noticing."""

from __future__ import annotations

import enum

from proxy.call.call import Call

# An attempt that never left the edge is made again this often at most: enough to step over instances that died
# together, few enough that a call does not wander.
MAX_ATTEMPTS = 3


class Failure(enum.Enum):
    """How an attempt failed, by what the upstream may have seen of it."""

    # No connection: the upstream saw nothing.
    CONNECT = enum.auto()
    # The upstream said that it did not process the stream (REFUSED_STREAM, GOAWAY below its id).
    REFUSED = enum.auto()
    # Anything later: the upstream may have acted.
    LOST = enum.auto()


def may_retry(call: Call, failure: Failure, *, replayable: bool) -> bool:
    """Tell whether a failed attempt may be followed by another one.

    `replayable` says that all that was read of the client's request is still at hand. After a begun response, or a
    failure in which the upstream may have acted, there is never another attempt: that takes a retry policy.
    """
    if failure is Failure.LOST or not replayable or call.response_at:
        return False
    return call.attempts < (MAX_ATTEMPTS if failure is Failure.CONNECT else 2)
