"""Which HTTP/2 implementation the engine takes, and that it runs on each."""

from __future__ import annotations

import sys
from collections.abc import Callable

import grpc
import pytest

from mesh.errors import UsageError
from proxy.engines.wire.engine import WireEngine
from proxy.engines.wire.h2 import Library, load
from proxy.engines.wire.h2_pure import load_pure
from tests.conformance import grpc_upstream, harness
from tests.conformance.grpc_upstream import GrpcUpstream
from tests.conformance.harness import connect, stream, unary


@pytest.mark.parametrize("library", [load, load_pure])
async def test_calls_go_through_on_either(monkeypatch: pytest.MonkeyPatch, library: Callable[[], Library]) -> None:
    monkeypatch.setattr(harness, "make_engine", lambda _name, books: WireEngine(books, library=library()))
    async with GrpcUpstream(grpc_upstream.echo).serve() as upstream, harness.run_edge("wire") as edge:
        edge.register(upstream.address)
        async with connect(edge.public) as channel:
            large = bytes(range(256)) * 4096
            assert await unary(channel)(large) == large
            call = stream(channel)()
            for message in (b"one", b"", b"three"):
                await call.write(message)
                assert await call.read() == message
            await call.done_writing()
            assert await call.code() is grpc.StatusCode.OK
        await edge.settled()


def test_the_fast_one_is_taken() -> None:
    assert load().name == "ngh2"


def test_the_pure_one_stands_in_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ngh2", None)
    assert load().name == "h2"


def test_without_any_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ngh2", None)
    monkeypatch.setitem(sys.modules, "proxy.engines.wire.h2_pure", None)
    with pytest.raises(UsageError, match="pip install ngh2"):
        load()
