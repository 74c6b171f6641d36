"""Traces: the upstream gets the trace that came, under a span of the edge's; failures are kept, ids never sampled."""

from __future__ import annotations

import pytest

from mesh import tracing
from mesh.resilience import outcome
from mesh.telemetry.sampling import Sampler, TracingOptions
from proxy.admin.spans import kept, span_batch
from proxy.call.call import Call
from proxy.stack import StackOptions
from tests.conformance.h2_client import h2_connect
from tests.conformance.h2_peer import Headers, Stream
from tests.conformance.h2_upstream import H2Upstream, Script, echo, reply
from tests.conformance.harness import METHOD, run_edge

TRACE, SPAN = b"4bf92f3577b34da6a3ce929d0e0e4736", b"00f067aa0ba902b7"
SAMPLED = b"00-" + TRACE + b"-" + SPAN + b"-01"
NOT_SAMPLED = SAMPLED[:-1] + b"0"
ALL, NONE = TracingOptions(), TracingOptions(sample=0, slow_seconds=3600)


async def _traced(
    engine: str, metadata: Headers, script: Script = echo, options: TracingOptions = ALL
) -> tuple[Call, list[Stream]]:
    """Make a call; return its record and what the upstream saw."""
    stack = StackOptions(tracing=options)
    async with H2Upstream(script).serve() as upstream, run_edge(engine, stack=stack) as edge:
        edge.register(upstream.address)
        async with h2_connect(edge.public) as client:
            await client.call(METHOD, b"x", metadata=metadata)
        return await edge.call_record(), upstream.streams


async def _unavailable(stream: Stream) -> None:
    await stream.until(lambda: stream.ended)
    await reply(stream, code=outcome.UNAVAILABLE, message="busy")


def _seen(streams: list[Stream]) -> list[tuple[bytes, bytes, bool]]:
    found = [tracing.parse(stream.header(b"traceparent") or b"") for stream in streams]
    assert all([name for name, _ in stream.headers].count(b"traceparent") == 1 for stream in streams)
    return [one for one in found if one is not None]


@pytest.mark.parametrize(("came", "sampled"), [(SAMPLED, True), (NOT_SAMPLED, False)], ids=["sampled", "not"])
async def test_the_trace_goes_on_under_a_span_of_the_edge(
    engine: str,
    came: bytes,
    sampled: bool,  # noqa: FBT001
) -> None:
    record, streams = await _traced(engine, [(b"traceparent", came), (b"tracestate", b"vendor=1")])
    ((trace, span, flag),) = _seen(streams)
    assert (trace, flag) == (TRACE, sampled)
    assert span != SPAN
    assert streams[0].header(b"tracestate") == b"vendor=1"
    assert record.traceparent == streams[0].header(b"traceparent")
    assert record.traceparent_in == came
    assert record.correlation_id == TRACE


async def test_a_trace_begins_under_the_correlation_id_where_neither_came(engine: str) -> None:
    record, streams = await _traced(engine, [])
    ((trace, _, sampled),) = _seen(streams)
    assert sampled
    assert trace == record.correlation_id == streams[0].header(b"x-correlation-id")


async def test_a_malformed_trace_is_begun_anew(engine: str) -> None:
    record, streams = await _traced(engine, [(b"traceparent", SAMPLED[:-3]), (b"x-correlation-id", b"mine")])
    ((trace, _, _),) = _seen(streams)
    assert trace != TRACE
    assert (record.correlation_id, streams[0].header(b"x-correlation-id")) == (b"mine", b"mine")


async def test_failures_are_kept_though_not_sampled_and_ids_are_never_sampled(engine: str) -> None:
    failed, streams = await _traced(engine, [], _unavailable, NONE)
    fine, _ = await _traced(engine, [], echo, NONE)
    assert [sampled for _, _, sampled in _seen(streams)] == [False]
    assert streams[0].header(b"x-correlation-id") == failed.correlation_id
    assert [call for _, call in kept([(1, failed), (2, fine)], Sampler(NONE))] == [failed]
    batch = span_batch([(10**18, failed)], "edge-1", lambda _: 0)
    assert list(batch.rpc_status_code.values) == ["UNAVAILABLE"]
    assert list(batch.status_message.values) == ["busy"]
    assert list(batch.span_id.values) == [failed.traceparent[36:52].decode()]


async def test_an_attempt_that_is_made_again_is_of_the_same_span(engine: str) -> None:
    seen: list[Stream] = []

    async def refuse_first(stream: Stream) -> None:
        seen.append(stream)
        if len(seen) == 1:
            await stream.until(lambda: stream.ended)
            stream.reset(7)  # REFUSED_STREAM: it was not looked at
        else:
            await echo(stream)

    record, streams = await _traced(engine, [(b"traceparent", SAMPLED)], refuse_first)
    assert record.attempts == len(streams) == 2
    assert len(set(_seen(streams))) == 1
    ((_, endpoint, status, _, reason),) = record.failed
    assert (endpoint, status) == (record.endpoint, outcome.UNAVAILABLE)
    assert reason is not None


async def test_without_tracing_what_came_is_passed_on_untouched(engine: str) -> None:
    async with H2Upstream(echo).serve() as upstream, run_edge(engine) as edge:
        edge.register(upstream.address)
        async with h2_connect(edge.public) as client:
            await client.call(METHOD, metadata=[(b"traceparent", SAMPLED)])
        assert upstream.streams[0].header(b"traceparent") == SAMPLED
        await edge.settled()
