"""The correlation id: kept when well-formed, else from the trace, else made; sent both ways, also of refused calls."""

from __future__ import annotations

import re

import pytest

from tests.conformance.h2_client import h2_connect
from tests.conformance.h2_peer import Headers
from tests.conformance.h2_upstream import H2Upstream, echo
from tests.conformance.harness import METHOD, run_edge

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
TRACEPARENT = (b"traceparent", f"00-{TRACE}-00f067aa0ba902b7-01".encode())
MADE = re.compile(r"[0-9a-f]{32}").fullmatch

WELL_FORMED = ["a", "order-17", "A.b_c:d-9", "x" * 128]
MALFORMED = ["", "x" * 129, "with space", "semi;colon", "a/b", "a,b"]


async def _id(engine: str, metadata: Headers, path: str = METHOD) -> str:
    """Make a call; check that upstream, client and record agree on its id, and return it."""
    async with H2Upstream(echo).serve() as upstream, run_edge(engine) as edge:
        edge.register(upstream.address)
        async with h2_connect(edge.public) as client:
            reply = await client.call(path, b"x", metadata=metadata)
        record = await edge.call_record()
        assert record.correlation_id.decode() == reply.correlation_id
        ids = [value for stream in upstream.streams for name, value in stream.headers if name == b"x-correlation-id"]
        assert ids == [record.correlation_id] * len(upstream.streams)
        return reply.correlation_id


@pytest.mark.parametrize("given", WELL_FORMED)
async def test_well_formed_id_is_kept(engine: str, given: str) -> None:
    assert await _id(engine, [(b"x-correlation-id", given.encode())]) == given


@pytest.mark.parametrize("given", MALFORMED)
async def test_malformed_id_is_replaced(engine: str, given: str) -> None:
    assert MADE(await _id(engine, [(b"x-correlation-id", given.encode())]))


async def test_missing_id_is_made(engine: str) -> None:
    assert MADE(await _id(engine, []))


@pytest.mark.parametrize("more", [[], [(b"x-correlation-id", b"not well formed")]], ids=["missing", "malformed"])
async def test_trace_id_serves_where_there_is_no_good_id(engine: str, more: Headers) -> None:
    assert await _id(engine, [TRACEPARENT, *more]) == TRACE


async def test_good_id_goes_before_the_trace(engine: str) -> None:
    assert await _id(engine, [TRACEPARENT, (b"x-correlation-id", b"mine")]) == "mine"


async def test_malformed_trace_is_not_taken(engine: str) -> None:
    assert MADE(made := await _id(engine, [(b"traceparent", f"00-{'0' * 32}-00f067aa0ba902b7-01".encode())]))
    assert made != "0" * 32


async def test_traceparent_goes_on_to_the_upstream(engine: str) -> None:
    async with H2Upstream(echo).serve() as upstream, run_edge(engine) as edge:
        edge.register(upstream.address)
        async with h2_connect(edge.public) as client:
            await client.call(METHOD, metadata=[TRACEPARENT])
        assert (upstream.streams[0].header(b"traceparent") or b"")[:35] == TRACEPARENT[1][:35]
        await edge.settled()


async def test_refused_call_has_its_id(engine: str) -> None:
    assert await _id(engine, [(b"x-correlation-id", b"mine")], "/no.such.Service/Call") == "mine"


async def test_ids_differ_from_call_to_call(engine: str) -> None:
    async with run_edge(engine) as edge:
        async with h2_connect(edge.public) as client:
            made = {(await client.call(METHOD)).correlation_id for _ in range(20)}
        assert len(made) == 20
        await edge.settled()
