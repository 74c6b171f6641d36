"""The public gRPC interop cases that apply to a proxy, with Node's @grpc/grpc-js as client."""

from __future__ import annotations

from pathlib import Path

import pytest

from mesh.resilience import outcome
from mesh.tls.identity import Tls
from mesh.tls.options import ListenerTls, UpstreamTls
from proxy.engines.engine import PUBLIC
from tests.certificates import Authority
from tests.conformance import node
from tests.conformance.grpc_upstream import GrpcUpstream
from tests.conformance.harness import run_edge
from tests.conformance.interop_service import SERVICE, interop

OK, DEADLINE = outcome.OK, outcome.DEADLINE_EXCEEDED
# Node ends the stream and then resets it: an upstream may take what was cancelled for finished, edge or none.
CANCELLED = -1
# Node resets the stream at its deadline, which may reach the edge before the edge's own clock has come to it.
LATE = -2
NOTED = {CANCELLED: (OK, outcome.CANCELLED), LATE: (DEADLINE, outcome.CANCELLED)}
# Each case, and what the edge must have noted of its calls.
CASES = {
    "empty_unary": [OK],
    "large_unary": [OK],
    "client_streaming": [OK],
    "server_streaming": [OK],
    "ping_pong": [OK],
    "empty_stream": [OK],
    "cancel_after_begin": [CANCELLED],
    "cancel_after_first_response": [CANCELLED],
    "timeout_on_sleeping_server": [LATE],
    "custom_metadata": [OK, OK],
    "status_code_and_message": [outcome.UNKNOWN] * 2,
    "special_status_message": [outcome.UNKNOWN] * 2,
    "unimplemented_method": [outcome.UNIMPLEMENTED],
    "unimplemented_service": [outcome.UNIMPLEMENTED],
}


@pytest.fixture(scope="module", autouse=True)
def grpc_js() -> None:
    node.install()


async def _passes(engine: str, case: str, *, tls: Tls | None = None, ca: str = "") -> None:
    async with GrpcUpstream(interop).serve() as upstream, run_edge(engine, tls=tls) as edge:
        edge.register(upstream.address, service="interop", grpc_service=SERVICE)
        assert await node.run_case(edge.public, case, ca) == ""
        records = await edge.settled()
        for call in upstream.calls:
            await call.ended.wait()
    for record, status in zip(records, CASES[case], strict=True):
        assert record.status in NOTED.get(status, (status,))
    if case == "timeout_on_sleeping_server":
        assert len(upstream.calls) <= 1  # none where the half second was over before there was a connection
    else:
        assert len(upstream.calls) == (0 if case == "unimplemented_service" else len(records))


@pytest.mark.parametrize("case", CASES)
async def test_interop_case(engine: str, case: str) -> None:
    await _passes(engine, case)


async def test_interop_case_over_tls(engine: str, tmp_path: Path) -> None:
    authority = Authority()
    cert, key = authority.sign(names=("127.0.0.1",)).write(tmp_path, "edge")
    tls = Tls({PUBLIC: ListenerTls(cert, key)}, UpstreamTls())
    await _passes(engine, "ping_pong", tls=tls, ca=authority.write(tmp_path, "authority"))
