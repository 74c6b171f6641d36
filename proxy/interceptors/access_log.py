"""The access log: one record a call into a bounded queue, written out by somebody else."""

from __future__ import annotations

import functools
import json
from collections import deque

from mesh.clock import Clock
from mesh.resilience.outcome import code_name
from proxy.call.call import Call
from proxy.call.interceptor import Interceptor

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


def line(ended_ns: int, call: Call) -> str:
    """Return the access log's line for a call: a JSON object; durations in milliseconds.

    `upstream_ms` runs from the end of the request to the start of the answer, where both were seen. Written out by
    hand because at full load it is written tens of thousands of times a second: a dict and `json.dumps` cost five
    times as much, and together a fifth of what a call costs. Text that others choose goes through `_quoted`.
    """
    route, endpoint = call.route, call.endpoint
    service = _quoted(route.service) if route is not None else "null"
    if endpoint is not None:
        instance, address = _quoted(endpoint.instance_id), _quoted(endpoint.address)
    else:
        instance = address = "null"
    more = ""
    if call.response_at and call.request_ended_at:
        more = f',"upstream_ms":{max(0.0, call.response_at - call.request_ended_at) * 1000:.3f}'
    if call.deadline is not None:
        more += f',"deadline_ms":{(call.deadline - call.started_at) * 1000:.3f}'
    if call.reason is not None:
        more += f',"reason":"{call.reason.text}"'
    if call.message:
        more += f',"message":{json.dumps(call.message)}'
    return (
        f'{{"ts":{ended_ns // 1000 / 1e6:.6f},"correlation_id":"{call.correlation_id.decode()}"'
        f',"listener":"{call.listener}","peer":{_quoted(call.peer)},"method":{_method(call.method)}'
        f',"service":{service},"instance":{instance},"endpoint":{address},"code":"{code_name(call.status)}"'
        f',"duration_ms":{(call.ended_at - call.started_at) * 1000:.3f}'
        f',"bytes_in":{call.bytes_in},"bytes_out":{call.bytes_out},"attempts":{call.attempts}{more}}}'
    )


# Names repeat from call to call; what clients make up pushes other entries out, and costs no more than that.
_quoted = functools.lru_cache(4096)(json.dumps)


@functools.lru_cache(4096)
def _method(path: bytes) -> str:
    return json.dumps(path.decode("ascii", "backslashreplace"))
