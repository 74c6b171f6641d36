"""The access log: one record a call into a bounded queue, written out by somebody else."""

from __future__ import annotations

from collections import deque

from mesh.clock import Clock
from mesh.resilience.outcome import code_name
from proxy.call.call import Call
from proxy.call.pipeline import Interceptor

# About 40 MB of records, some seconds of full load, before the newest are dropped and counted.
DEFAULT_CAPACITY = 65536


class AccessLog(Interceptor):
    """Notes every call. A queue that nobody empties drops what does not fit: a log never delays a call."""

    name = "access_log"

    def __init__(self, clock: Clock, capacity: int = DEFAULT_CAPACITY) -> None:
        self._wall_ns = clock.wall_ns
        self._capacity = capacity
        self._ended: deque[tuple[int, Call]] = deque()
        self.dropped = 0

    def on_end(self, call: Call) -> None:
        if len(self._ended) < self._capacity:
            self._ended.append((self._wall_ns(), call))
        else:
            self.dropped += 1

    def take(self) -> list[tuple[int, Call]]:
        """Return what was noted since the last time: pairs of the end's wall time in ns and the call.

        May be called by another thread than the one that notes.
        """
        ended = self._ended
        return [ended.popleft() for _ in range(len(ended))]


def record(ended_ns: int, call: Call) -> dict[str, object]:
    """Return the access log's record of a call; durations in milliseconds.

    `upstream_ms` runs from the end of the request to the start of the answer, where both were seen.
    """
    route, endpoint = call.route, call.endpoint
    entry: dict[str, object] = {
        "ts": ended_ns / 1e9,
        "correlation_id": call.correlation_id.decode(),
        "listener": call.listener,
        "peer": call.peer,
        "method": call.method.decode("ascii", "backslashreplace"),
        "service": route.service if route is not None else None,
        "instance": endpoint.instance_id if endpoint is not None else None,
        "endpoint": endpoint.address if endpoint is not None else None,
        "code": code_name(call.status),
        "duration_ms": _ms(call.ended_at - call.started_at),
        "bytes_in": call.bytes_in,
        "bytes_out": call.bytes_out,
        "attempts": call.attempts,
    }
    if call.response_at and call.request_ended_at:
        entry["upstream_ms"] = _ms(max(0.0, call.response_at - call.request_ended_at))
    if call.deadline is not None:
        entry["deadline_ms"] = _ms(call.deadline - call.started_at)
    if call.reason is not None:
        entry["reason"] = call.reason.text
    if call.message:
        entry["message"] = call.message
    return entry


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)
