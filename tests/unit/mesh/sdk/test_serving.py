"""What happens around every handler, on a real server."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from mesh.resilience import outcome
from mesh.sdk.metrics import CallMetrics
from mesh.sdk.serving import Serving
from mesh.sdk.spans import SpanLog
from mesh.telemetry.sampling import TracingOptions
from mesh.telemetry.spans import ERROR, SERVER, UNSET, SpanRecord
from tests.unit.mesh.sdk.helpers import LAB, Lab, LabStub, add_lab, dialled, told, until

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = ("traceparent", f"00-{TRACE}-{SPAN}-01")


class Served:
    """A server with a lab, and a client of it."""

    def __init__(self, lab: Lab, stub: LabStub, metrics: CallMetrics, spans: SpanLog) -> None:
        self.lab, self.stub, self.metrics, self._spans = lab, stub, metrics, spans

    async def span(self) -> SpanRecord:
        """Return the one span that there is."""
        found: list[SpanRecord] = await until(lambda: self._spans.take(100), "a span")
        assert len(found) == 1
        return found[0]

    def no_spans(self) -> bool:
        return self._spans.take(1) == []

    def codes(self, method: str) -> dict[str, float]:
        stats = self.metrics.of(f"{LAB}/{method}")
        return {outcome.code_name(code): sum(counts[:-1]) for code, counts in stats.by_code.items()}

    def in_flight(self) -> int:
        return sum(stats.in_flight for stats in self.metrics.all())


@contextlib.asynccontextmanager
async def serving(tracing: TracingOptions | None = None) -> AsyncIterator[Served]:
    metrics = CallMetrics("server", ("rpc_method",))
    spans = SpanLog(tracing or TracingOptions(), "labs", "labs-1", "1.0")
    lab = Lab()
    server = grpc.aio.server(interceptors=(Serving(metrics, spans),))
    add_lab(lab, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with dialled(f"127.0.0.1:{port}") as channel:
            yield Served(lab, LabStub(channel), metrics, spans)
    finally:
        await server.stop(0)


async def ask(stub: LabStub, kind: str, request: bytes, **more: Any) -> list[dict[str, Any]]:
    """Make a call of some kind with one request, and return its answers."""

    async def requests() -> AsyncIterator[bytes]:
        yield request

    if kind == "Get":
        answers = [await stub.Get(request, **more)]
    elif kind == "Sum":
        answers = [await stub.Sum(requests(), **more)]
    elif kind == "Chat":
        answers = [answer async for answer in stub.Chat(requests(), **more)]
    else:
        answers = [answer async for answer in getattr(stub, kind)(request, **more)]
    return [json.loads(answer) for answer in answers]


KINDS = pytest.mark.parametrize("kind", ["Get", "List", "Write", "Sum", "Chat"])


@KINDS
async def test_a_call_has_a_context_a_span_and_is_counted(kind: str) -> None:
    async with serving() as served:
        answers = await ask(served.stub, kind, told(), metadata=(PARENT, ("x-correlation-id", "order-7")), timeout=20)
        for known in answers:
            assert (known["correlation"], known["trace"], known["sampled"]) == ("order-7", TRACE, True)
            assert known["deadline"]
        span = await served.span()
        assert (span.kind, span.name, span.rpc_method) == (SERVER, f"{LAB}/{kind}", f"{LAB}/{kind}")
        assert (span.trace_id, span.parent_span_id) == (TRACE, SPAN)
        assert span.span_id == answers[0]["span"] != SPAN
        assert (span.correlation_id, span.service, span.instance) == ("order-7", "labs", "labs-1")
        assert (span.rpc_status_code, span.status) == ("OK", UNSET)
        assert span.end_ns >= span.start_ns
        assert served.codes(kind) == {"OK": 1}
        assert served.in_flight() == 0


async def test_ids_are_made_when_missing() -> None:
    async with serving() as served:
        (known,) = await ask(served.stub, "Get", told())
        assert known["correlation"] == known["trace"]
        assert len(known["trace"]) == 32
        assert not known["deadline"]
        assert (await served.span()).parent_span_id == ""


@pytest.mark.parametrize("value", ["a b", "x" * 129, ""])
async def test_a_malformed_correlation_id_is_replaced(value: str) -> None:
    async with serving() as served:
        (known,) = await ask(served.stub, "Get", told(), metadata=(("x-correlation-id", value), PARENT))
        assert known["correlation"] == TRACE


async def test_a_malformed_traceparent_is_replaced() -> None:
    async with serving() as served:
        (known,) = await ask(served.stub, "Get", told(), metadata=(("traceparent", "00-zz-1-01"),))
        assert len(known["trace"]) == 32


@KINDS
async def test_a_handler_that_raises_tells_the_caller_nothing_and_the_log_all(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving() as served:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await ask(served.stub, kind, told("raise"), metadata=(("x-correlation-id", "order-8"),))
        assert caught.value.code() is grpc.StatusCode.INTERNAL
        details = caught.value.details() or ""
        assert "order-8" in details
        assert "secret" not in details
        assert "ValueError" not in details
        assert "Traceback" not in details
        (record,) = [one for one in caplog.records if one.levelno == logging.ERROR]
        assert "order-8" in record.getMessage()
        assert record.exc_info is not None
        assert "secret" in str(record.exc_info[1])
        assert served.codes(kind) == {"INTERNAL": 1}
        span = await served.span()
        assert (span.status, span.rpc_status_code) == (ERROR, "INTERNAL")


@KINDS
async def test_an_abort_is_the_answer(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    async with serving() as served:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await ask(served.stub, kind, told("abort", code="NOT_FOUND", trailers=[["why", "lost"]]))
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        assert caught.value.details() == "as told"
        assert tuple(caught.value.trailing_metadata() or ()) == (("why", "lost"),)
        assert served.codes(kind) == {"NOT_FOUND": 1}
        # The caller's mistake, not the server's.
        assert (await served.span()).status == UNSET
        assert not [one for one in caplog.records if one.levelno >= logging.WARNING]


async def test_a_status_that_is_set_counts() -> None:
    async with serving() as served:
        with pytest.raises(grpc.aio.AioRpcError):
            await ask(served.stub, "Get", told("set"))
        assert served.codes("Get") == {"NOT_FOUND": 1}
        assert (await served.span()).rpc_status_code == "NOT_FOUND"


@KINDS
async def test_a_call_that_its_client_cancels_is_cancelled(kind: str) -> None:
    async with serving() as served:
        calling = asyncio.create_task(ask(served.stub, kind, told("wait", who="me")))
        await until(lambda: served.lab.waiting, "the handler")
        assert served.in_flight() == 1
        calling.cancel()
        await asyncio.gather(calling, return_exceptions=True)
        await until(lambda: served.codes(kind) == {"CANCELLED": 1}, "its end")
        assert served.lab.cancelled == ["me"]
        assert (await served.span()).rpc_status_code == "CANCELLED"
        assert served.in_flight() == 0


@KINDS
async def test_a_call_whose_deadline_passes_is_seen_as_that(kind: str) -> None:
    async with serving() as served:

        async def late() -> bool:
            """Make a call, which may be over before it is served, and tell whether it was counted."""
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await ask(served.stub, kind, told("wait"), timeout=0.2)
            assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            return bool(served.codes(kind))

        await until(late, "a call that was served")
        await until(lambda: served.in_flight() == 0, "its end")
        assert set(served.codes(kind)) == {"DEADLINE_EXCEEDED"}


async def test_a_client_that_stops_reading_ends_the_stream() -> None:
    async with serving() as served:
        call = served.stub.List(told(times=10**9))
        assert await call.read()
        call.cancel()
        await until(lambda: served.codes("List") == {"CANCELLED": 1}, "its end")
        assert served.in_flight() == 0


async def test_spans_that_are_not_sampled_are_kept_when_something_went_wrong() -> None:
    unsampled = (("traceparent", f"00-{TRACE}-{SPAN}-00"),)
    async with serving() as served:
        (known,) = await ask(served.stub, "Get", told(), metadata=unsampled)
        assert not known["sampled"]
        assert served.no_spans()
        with pytest.raises(grpc.aio.AioRpcError):
            await ask(served.stub, "Get", told("raise"), metadata=unsampled)
        assert (await served.span()).flags == 0


async def test_traces_that_begin_here_are_sampled_by_share() -> None:
    async with serving(TracingOptions(sample=0.0)) as served:
        (known,) = await ask(served.stub, "Get", told())
        assert not known["sampled"]
        assert served.no_spans()


async def test_what_a_call_of_the_handler_met_is_passed_on_and_not_to_be_tried_again() -> None:
    async with serving() as below:

        class Onward(Lab):
            async def Get(self, request: bytes, context: Any) -> bytes:
                reply: bytes = await below.stub.Get(told("abort", code="UNAVAILABLE", trailers=[["mesh-reason", "x"]]))
                return reply

        above = grpc.aio.server(
            interceptors=(Serving(CallMetrics("server", ("rpc_method",)), SpanLog(TracingOptions())),)
        )
        add_lab(Onward(), above)
        port = above.add_insecure_port("127.0.0.1:0")
        await above.start()
        async with dialled(f"127.0.0.1:{port}") as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await LabStub(channel).Get(told())
        await above.stop(0)
        assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.UNAVAILABLE, "as told")
        assert dict(caught.value.trailing_metadata() or ()) == {"mesh-reason": "x", "grpc-retry-pushback-ms": "-1"}
