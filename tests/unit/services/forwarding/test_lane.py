"""What waits to be sent on: bounds, the disk, refusals, collectors that ask for patience. They are real ones."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import any_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
    ExportLogsPartialSuccess,
    ExportLogsServiceRequest,
    ExportLogsServiceResponse,
)

from services.forwarding.items import Form, Item
from services.forwarding.lane import Lane
from services.forwarding.options import ForwardOptions, Signal, Target, parse_target
from services.forwarding.split import SHAPES
from tests.certificates import Authority

PATIENCE = 30


class Collector:
    """Takes logs; answers as `answers` say, one each, then well."""

    def __init__(self) -> None:
        self.bodies: list[str] = []
        self.metadata: list[dict[str, Any]] = []
        self.answers: list[Callable[[Any], Any]] = []

    async def export(self, request: ExportLogsServiceRequest, context: Any) -> ExportLogsServiceResponse:
        self.metadata.append(dict(context.invocation_metadata()))
        if self.answers and (answer := await self.answers.pop(0)(context)) is not None:
            return answer  # type: ignore[no-any-return]
        scopes = (scope for resource in request.resource_logs for scope in resource.scope_logs)
        self.bodies += [record.body.string_value for scope in scopes for record in scope.log_records]
        return ExportLogsServiceResponse()


@contextlib.asynccontextmanager
async def collecting(credentials: grpc.ServerCredentials | None = None) -> AsyncIterator[tuple[Collector, str]]:
    collector = Collector()
    handler = grpc.unary_unary_rpc_method_handler(
        collector.export, ExportLogsServiceRequest.FromString, ExportLogsServiceResponse.SerializeToString
    )
    service = SHAPES[Signal.LOGS].method.split("/")[1]
    server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {"Export": handler}),))
    where = "127.0.0.1:0"
    bound = server.add_secure_port(where, credentials) if credentials else server.add_insecure_port(where)
    await server.start()
    try:
        yield collector, f"127.0.0.1:{bound}"
    finally:
        await server.stop(None)


def item(*bodies: str, via: tuple[str, ...] = ()) -> Item:
    request = ExportLogsServiceRequest()
    scope = request.resource_logs.add().scope_logs.add()
    for body in bodies:
        scope.log_records.add().body.string_value = body
    data = request.SerializeToString()
    return Item(Form.OTLP, data, len(bodies), len(data), via)


def lane(address: str, folder: Path | None = None, **options: Any) -> Lane:
    return Lane(Target(address), Signal.LOGS, ForwardOptions(**options), "me", folder)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.01)


async def test_items_are_sent_in_order_and_together(tmp_path: Path) -> None:
    async with collecting() as (collector, address):
        async with lane(address, tmp_path) as sending:
            for number in range(100):
                assert sending.put(item(str(number)))
            sending.put(item("elsewhere", via=("other",)))
            await until(lambda: sending.stats.sent == 101)
        assert collector.bodies == [*map(str, range(100)), "elsewhere"]
        assert len(collector.metadata) < 20
        assert collector.metadata[-1]["x-mesh-via"] == "other,me"
        seqs = [int(one["x-mesh-seq"]) for one in collector.metadata]
        assert seqs == sorted(set(seqs))
        assert sending.memory_bytes == 0
        assert not list(tmp_path.iterdir())


async def test_a_refusal_costs_only_what_was_refused() -> None:
    async def refused(context: Any) -> None:
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "I do not like it")

    async def in_part(_: Any) -> Any:
        return ExportLogsServiceResponse(partial_success=ExportLogsPartialSuccess(rejected_log_records=1))

    async with collecting() as (collector, address), lane(address) as sending:
        for answer, text in ((refused, "a"), (in_part, "b"), (None, "c")):
            if answer is not None:
                collector.answers.append(answer)
            sending.put(item(text, text, text))
            await until(lambda: not sending._waiting)
        assert (sending.stats.sent, sending.stats.rejected, sending.stats.retries) == (2 + 3, 3 + 1, 0)
        assert collector.bodies == ["c"] * 3


async def test_a_full_collector_is_asked_again_when_it_says_so() -> None:
    asked: list[float] = []

    def full(code: int) -> Callable[[Any], Any]:
        async def answer(context: Any) -> None:
            asked.append(asyncio.get_running_loop().time())
            detail = any_pb2.Any()
            retry = error_details_pb2.RetryInfo()
            retry.retry_delay.FromMilliseconds(800)
            detail.Pack(retry)
            status = rpc_status.to_status(status_pb2.Status(code=code, message="full", details=[detail]))
            context.set_trailing_metadata(status.trailing_metadata)
            await context.abort(status.code, status.details)

        return answer

    async with collecting() as (collector, address), lane(address) as sending:
        collector.answers += [full(code_pb2.UNAVAILABLE), full(code_pb2.RESOURCE_EXHAUSTED)]
        sending.put(item("a"))
        await until(lambda: collector.bodies == ["a"])
        assert asked[1] - asked[0] >= 0.79, "the first wait of its own would be a quarter of a second"
        await until(lambda: sending.stats.sent == 1)
        assert sending.stats.retries == 2


async def test_what_finds_no_room_is_dropped_and_counted(tmp_path: Path) -> None:
    bounds = {"memory_bytes": 1 << 16, "spool_bytes": 1 << 17, "close_seconds": 0}
    taken = 0
    async with lane("127.0.0.1:1", tmp_path, **bounds) as sending:
        for number in range(100):
            taken += sending.put(item(f"{number} " + "x" * 10_000))
            await until(lambda: not sending._high.is_set() and not sending._moving.locked())
            assert sending.memory_bytes <= 1 << 16
            assert sending.spool_bytes <= 1 << 17
    assert 0 < taken < 100
    stored = sum(len(path.read_bytes()) for path in tmp_path.glob("*/*.batch"))
    assert stored <= 1 << 17
    assert sending.stats.dropped >= 100 - taken


async def test_what_one_process_left_the_next_one_sends_once(tmp_path: Path) -> None:
    bounds = {"memory_bytes": 1 << 16, "group_bytes": 30_000, "request_bytes": 15_000, "close_seconds": 0}
    texts = [f"{number} " + "x" * 5_000 for number in range(40)]
    async with collecting() as (collector, address):

        async def stall(context: Any) -> None:
            await asyncio.sleep(PATIENCE)

        collector.answers += [stall]
        refused = 0
        async with lane(address, tmp_path, **bounds) as sending:
            for text in texts:
                async with asyncio.timeout(PATIENCE):
                    while not sending.put(item(text)):
                        refused += 1
                        await asyncio.sleep(0.01)
            await until(lambda: len(collector.metadata) == 1)
        assert sending.stats.dropped == refused
        first = collector.metadata[0]
        # One file that is damaged is left out.
        (folder,) = tmp_path.iterdir()
        damaged = sorted(folder.glob("*.batch"))[3]
        damaged.write_bytes(b"cut off")
        async with lane(address, tmp_path, **bounds) as sending:
            sending.put(item("new"))
            await until(lambda: not sending._waiting)
        again = collector.metadata[1]
        assert (first["x-mesh-producer"], first["x-mesh-seq"]) == (again["x-mesh-producer"], again["x-mesh-seq"])
        assert collector.bodies[-1] == "new"
        assert set(collector.bodies) < {*texts, "new"}
        assert len(collector.bodies) == len(set(collector.bodies)) >= 30
        assert not list(tmp_path.iterdir())


def is_empty(folder: Path) -> bool:
    return not list(folder.iterdir())


async def test_what_waits_for_a_collector_that_is_away_outlives_a_kill(tmp_path: Path) -> None:
    texts = ["being sent", *map(str, range(5))]
    async with lane("127.0.0.1:1", tmp_path / "own", keep_seconds=0.05, close_seconds=0) as sending:
        sending.put(item("being sent"))
        await until(lambda: sending._current is not None)
        for text in texts[1:]:
            sending.put(item(text))
        await until(lambda: not sending._memory and sending._kept > 0)
        # What a kill at this moment would leave.
        async with sending._moving:
            shutil.copytree(tmp_path / "own", tmp_path / "left")
    assert sending.stats.dropped == 0
    async with collecting() as (collector, address):
        for folder in (tmp_path / "left", tmp_path / "own"):
            async with lane(address, folder):
                # The answer to the last one is noted by removing what was left behind.
                await until(partial(is_empty, folder))
            assert collector.bodies == texts, "each once, and in order"
            collector.bodies.clear()


async def test_what_was_kept_while_it_was_sent_is_sent_once(tmp_path: Path) -> None:
    answered = asyncio.Event()

    async def late(_: Any) -> None:
        await answered.wait()

    async with collecting() as (collector, address):
        collector.answers += [late]
        async with lane(address, tmp_path, keep_seconds=0.05) as sending:
            sending.put(item("a"))
            await until(lambda: sending._kept > 0)
            sending.put(item("b"))
            await until(lambda: not sending._memory)
            answered.set()
            await until(lambda: sending.stats.sent == 2 and not sending._waiting)
        assert collector.bodies == ["a", "b"]
        assert (sending.memory_bytes, sending.spool_bytes) == (0, 0)
        assert not list(tmp_path.iterdir())


async def test_a_collector_behind_mutual_tls_hears_a_token(tmp_path: Path) -> None:
    authority = Authority()
    ca = authority.write(tmp_path, "ca")
    cert, key = authority.sign("sender").write(tmp_path, "sender")
    own = authority.sign(names=("127.0.0.1",))
    trusted = grpc.ssl_server_credentials([(own.key, own.cert)], authority.pem, require_client_auth=True)
    async with collecting(trusted) as (collector, address):
        target = parse_target(f"otlps://{address}?ca={ca}&cert={cert}&key={key}", (("authorization", "Bearer x"),))
        async with Lane(target, Signal.LOGS, ForwardOptions(), "me", None) as sending:
            sending.put(item("a"))
            await until(lambda: sending.stats.sent == 1)
        assert collector.metadata[0]["authorization"] == "Bearer x"
        stranger = parse_target(f"otlps://{address}?ca={ca}")
        async with Lane(stranger, Signal.LOGS, ForwardOptions(close_seconds=0), "me", None) as sending:
            sending.put(item("b"))
            await until(lambda: sending.stats.retries > 0)
        assert (sending.stats.sent, sending.stats.dropped, collector.bodies) == (0, 1, ["a"])
