from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import structlog

from mesh.context import CallContext, annotate, entered
from mesh.sdk import logs
from mesh.sdk.logs import LogHandler
from mesh.telemetry.record import DEBUG, ERROR, FATAL, INFO, TRACE, WARN

ABOUT = CallContext("order-7", "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7")


@pytest.fixture
def handler() -> LogHandler:
    return LogHandler("labs", "labs-1", "1.0")


@pytest.fixture
def log(handler: LogHandler) -> Iterator[logging.Logger]:
    logger = logging.getLogger("test.logs")
    logger.addHandler(handler)
    logger.setLevel(1)
    logger.propagate = False
    yield logger
    logger.removeHandler(handler)
    logger.propagate = True


def test_a_record_has_the_call_that_it_was_written_in(handler: LogHandler, log: logging.Logger) -> None:
    with entered(ABOUT):
        log.info("order %s is %s", 7, "paid", extra={"amount": 12})
    log.info("outside")
    inside, outside = handler.take(10)
    assert (inside.body, inside.scope, inside.severity, inside.severity_text) == (
        "order 7 is paid",
        "test.logs",
        INFO,
        "INFO",
    )
    assert (inside.correlation_id, inside.trace_id, inside.span_id, inside.flags) == (
        "order-7",
        ABOUT.trace_id,
        ABOUT.span_id,
        1,
    )
    assert (inside.service, inside.instance, inside.version) == ("labs", "labs-1", "1.0")
    assert inside.attributes == {"amount": 12}
    assert inside.ts_ns > 10**18
    assert (outside.correlation_id, outside.trace_id) == ("", "")


def test_a_record_has_what_was_said_of_its_call(handler: LogHandler, log: logging.Logger) -> None:
    with entered(CallContext("order-7", ABOUT.trace_id, ABOUT.span_id)):
        annotate("order.id", "7")
        annotate("amount", 1)
        log.info("paid", extra={"amount": 12})
    (record,) = handler.take(10)
    assert record.attributes == {"order.id": "7", "amount": 12}, "its own words go before"


def test_severities(handler: LogHandler, log: logging.Logger) -> None:
    for level in (5, 10, 20, 25, 30, 40, 50, 60):
        log.log(level, "x")
    assert [one.severity for one in handler.take(10)] == [TRACE, DEBUG, INFO, INFO, WARN, ERROR, FATAL, FATAL]


def test_exceptions(handler: LogHandler, log: logging.Logger) -> None:
    try:
        int("broken")
    except ValueError:
        log.exception("it failed")
    (record,) = handler.take(10)
    assert record.attributes["exception.type"] == "ValueError"
    assert record.attributes["exception.message"] == "invalid literal for int() with base 10: 'broken'"
    assert "test_exceptions" in record.attributes["exception.stacktrace"]


def test_arguments_that_do_not_fit(handler: LogHandler, log: logging.Logger) -> None:
    handler.handle(log.makeRecord("x", logging.INFO, "file", 1, "%d things", ("no",), None))
    assert handler.take(10)[0].body == "%d things"


def test_dictionaries_as_structlog_leaves_them(handler: LogHandler, log: logging.Logger) -> None:
    log.info({"event": "paid", "order": 7})
    (record,) = handler.take(10)
    assert (record.body, record.attributes) == ("paid", {"order": 7})


def test_events_of_structlog_itself(handler: LogHandler) -> None:
    event = {"event": "paid", "level": "warning", "order": 7, "logger": "shop", "timestamp": "now"}
    with entered(ABOUT):
        passed = handler.structlog_processor(None, "warning", event)
    assert passed == {"correlation_id": "order-7", "trace_id": ABOUT.trace_id, **event}
    (record,) = handler.take(10)
    assert (record.body, record.severity, record.scope, record.attributes) == ("paid", WARN, "shop", {"order": 7})
    assert record.correlation_id == "order-7"
    assert handler.structlog_processor(None, "exception", {"event": "bad"}) == {"event": "bad"}
    assert handler.take(1)[0].severity == ERROR


def test_real_structlog_through_logging(handler: LogHandler, log: logging.Logger) -> None:
    logger = structlog.wrap_logger(
        log,
        processors=[structlog.stdlib.add_log_level, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.stdlib.BoundLogger,
    )
    with entered(ABOUT):
        logger.bind(order=7).warning("paid")
    (record,) = handler.take(10)
    assert (record.body, record.severity, record.correlation_id) == ("paid", WARN, "order-7")
    assert record.attributes["order"] == 7


def test_what_is_too_much_is_dropped_and_counted(
    handler: LogHandler, log: logging.Logger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "MAX_WAITING", 2)
    for _ in range(3):
        log.info("x")
    assert handler.dropped == 1
    assert len(handler.take(10)) == 2


def test_warnings_are_seen_where_nobody_set_up_logging(
    handler: LogHandler, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.root, "handlers", [handler])
    logging.getLogger("alone").warning("look here")
    logging.getLogger("alone").info("not here")
    assert "look here" in capsys.readouterr().err
    assert handler.take(10)[0].body == "look here"
