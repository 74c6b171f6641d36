"""What records are shipped, and where to: all that pusher, shipper and spool have to know of a kind of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mesh.api.logsink import v1 as logsink
from mesh.api.tracesink import v1 as tracesink


@dataclass(frozen=True, slots=True)
class SinkKind:
    """A sink and its messages.

    Requests have `producer`, `seq`, `after` and `batch`, replies `durable_seq` and `rejected`, as `LogSink.Push` has.
    """

    # For people and metrics: "logs", "spans".
    name: str
    # In sentences: "the log sink".
    sink: str
    # The path of the method.
    push: str
    # The classes of its messages.
    request: Any
    response: Any
    # How many records a batch has.
    count: Callable[[Any], int]
    # Where in the spool folder its producers have theirs. Logs were there first, and lie in the folder itself.
    folder: str

    def spool(self, root: Path) -> Path:
        """Return the folder of this kind's producers in a spool: no kind ever sends what another one left behind."""
        return root / self.folder


LOGS = SinkKind(
    name="logs",
    sink="the log sink",
    push="/mesh.logsink.v1.LogSink/Push",
    request=logsink.PushRequest,
    response=logsink.PushResponse,
    count=lambda batch: len(batch.ts_ns),
    folder="",
)
SPANS = SinkKind(
    name="spans",
    sink="the trace sink",
    push="/mesh.tracesink.v1.TraceSink/Push",
    request=tracesink.PushRequest,
    response=tracesink.PushResponse,
    count=lambda batch: len(batch.start_ns),
    folder="spans",
)
