"""Log records of this process for the log sink, each with the call that it was written in."""

from __future__ import annotations

import logging
import time
import traceback
from collections import deque
from collections.abc import Mapping
from typing import Any

from mesh.sdk.otel import here
from mesh.telemetry.record import DEBUG, ERROR, FATAL, INFO, LEVELS, TRACE, WARN, Record

# Records that wait to be handed on; more of them are dropped, and counted.
MAX_WAITING = 20_000

_SEVERITIES = ((logging.CRITICAL, FATAL), (logging.ERROR, ERROR), (logging.WARNING, WARN), (logging.INFO, INFO))
# What every record of `logging` has; all else was given with `extra`.
_OWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class LogHandler(logging.Handler):
    """A handler of `logging`; `mesh.join` puts one on the root logger.

    Records of structlog are understood where it goes through `logging`, as it stands or rendered by its
    ProcessorFormatter; where it does not, `structlog_processor` takes them.
    """

    def __init__(self, service: str = "", instance: str = "", version: str = "") -> None:
        super().__init__()
        self._who = {"service": service, "instance": instance, "version": version}
        self._waiting: deque[Record] = deque()
        self.dropped = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Take a record; never waits."""
        attributes = {name: value for name, value in vars(record).items() if name not in _OWN and name[:1] != "_"}
        if isinstance(record.msg, Mapping) and not record.args:  # as structlog's wrap_for_formatter leaves it
            event = dict(record.msg)
            body = str(event.pop("event", ""))
            attributes |= event
        else:
            try:
                body = record.getMessage()
            except (TypeError, ValueError):  # arguments that do not fit: logging itself tells where
                body = str(record.msg)
        if record.exc_info is not None and record.exc_info[0] is not None:
            kind, error, trace = record.exc_info
            attributes["exception.type"] = kind.__qualname__
            attributes["exception.message"] = str(error)
            attributes["exception.stacktrace"] = "".join(traceback.format_exception(kind, error, trace))
        self._put(int(record.created * 1e9), _severity(record.levelno), record.levelname, body, record.name, attributes)
        shown = logging.lastResort
        if shown is not None and record.levelno >= shown.level and logging.root.handlers == [self]:
            # Python's own way to show warnings where nobody set up logging: it sees that there is a handler, ours.
            shown.handle(record)

    def structlog_processor(self, _logger: Any, method: str, event: Any) -> Any:
        """Take an event of structlog, and pass it on with the ids of the call: a processor before its renderer."""
        about = here()
        ids = {"correlation_id": about.correlation_id, "trace_id": about.trace_id} if about is not None else {}
        rest = {name: value for name, value in event.items() if name not in ("event", "level", "timestamp")}
        level = str(event.get("level", method)).lower()
        level = {"warning": "warn", "exception": "error", "critical": "fatal"}.get(level, level)
        scope = str(rest.pop("logger", ""))
        body = str(event.get("event", ""))
        self._put(time.time_ns(), LEVELS.get(level, INFO), level.upper(), body, scope, rest)
        return {**ids, **event}

    def take(self, most: int) -> list[Record]:
        """Return records that waited, the oldest first, no more than `most`."""
        waiting = self._waiting
        taken: list[Record] = []
        while waiting and len(taken) < most:
            taken.append(waiting.popleft())
        return taken

    def _put(self, ts_ns: int, severity: int, name: str, body: str, scope: str, attributes: Mapping[str, Any]) -> None:
        if len(self._waiting) >= MAX_WAITING:
            self.dropped += 1
            return
        about = here()
        self._waiting.append(
            Record(
                body,
                ts_ns=ts_ns,
                severity=severity,
                severity_text=name,
                scope=scope,
                correlation_id=about.correlation_id if about is not None else "",
                trace_id=about.trace_id if about is not None else "",
                span_id=about.span_id if about is not None else "",
                flags=int(about.sampled) if about is not None else 0,
                # The record's own words go before what was said of the call.
                attributes={**about.attributes, **attributes} if about is not None and about.attributes else attributes,
                **self._who,
            )
        )


def _severity(level: int) -> int:
    for least, severity in _SEVERITIES:
        if level >= least:
            return severity
    return DEBUG if level >= logging.DEBUG else TRACE
