"""Metrics as gRPC serves them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from mesh.api.metrics import v1
from services.metrics import convert, selecting
from services.metrics.alerts.keeper import GroupHealth, Keeper
from services.metrics.alerts.records import Silence
from services.metrics.errors import InvalidError
from services.metrics.pull.scraper import Scraper
from services.metrics.push import PushedSeries
from services.metrics.query import Queries
from services.metrics.samples import Stored
from services.metrics.status import Context, answering
from services.metrics.store import MetricStore

# Requests of one stream whose samples are being written.
IN_FLIGHT = 4
# Samples of a request from which on it is read beside the event loop.
LARGE = 20_000
# A watch of alerts says again what is, so that its values are fresh.
WATCH_SECONDS = 10.0
_MAX_TEXT = 1000


class GrpcMetrics(v1.MetricsServicer):
    """`mesh.metrics.v1.Metrics`."""

    def __init__(self, store: MetricStore, queries: Queries, scraper: Scraper, keeper: Keeper) -> None:
        self._store = store
        self._queries = queries
        self._scraper = scraper
        self._keeper = keeper

    async def Push(
        self, request_iterator: AsyncIterator[v1.PushRequest], context: Context
    ) -> AsyncIterator[v1.PushResponse]:
        """Answer in order, while the next requests are read and written already."""
        defined = PushedSeries(self._store.options)
        writing: asyncio.Queue[asyncio.Task[Stored] | Exception | None] = asyncio.Queue(IN_FLIGHT)

        # By producer: what is sent before it is acknowledged must follow what was sent before it.
        last: dict[str, int] = {}

        async def read() -> None:
            try:
                async for request in request_iterator:
                    if len(request.refs) > LARGE:
                        samples = await asyncio.to_thread(defined.samples, request)
                    else:
                        samples = defined.samples(request)
                    producer, seq = f"metrics/{request.producer}", request.seq
                    work = self._store.append(
                        samples,
                        source=defined.source or request.producer,
                        producer=producer,
                        seq=seq,
                        after=last.get(producer),
                    )
                    last[producer] = seq
                    await writing.put(asyncio.create_task(work))
                await writing.put(None)
            except Exception as error:  # noqa: BLE001 - it is raised where the answers are made
                await writing.put(error)

        reading = asyncio.create_task(read())
        try:
            async with answering(context, self._store.rejected):
                while (task := await writing.get()) is not None:
                    if isinstance(task, Exception):
                        raise task
                    stored = await task
                    yield v1.PushResponse(
                        durable_seq=stored.durable_seq,
                        rejected=sum(stored.rejected.values()),
                        reason=stored.reason[:_MAX_TEXT],
                    )
        finally:
            reading.cancel()
            left = [one for one in _drained(writing) if isinstance(one, asyncio.Task)]
            await asyncio.gather(reading, *left, return_exceptions=True)

    async def Query(self, request: v1.QueryRequest, context: Context) -> v1.QueryResponse:
        async with answering(context):
            at = request.time_ms if request.HasField("time_ms") else None
            found = await self._queries.instant(request.query, at, request.timeout or None)
            return v1.QueryResponse(answer=convert.answer(found))
        raise AssertionError

    async def QueryRange(self, request: v1.QueryRangeRequest, context: Context) -> v1.QueryRangeResponse:
        async with answering(context):
            found = await self._queries.range(
                request.query, request.start_ms, request.end_ms, request.step_ms, request.timeout or None
            )
            return v1.QueryRangeResponse(answer=convert.answer(found))
        raise AssertionError

    async def Series(self, request: v1.SeriesRequest, context: Context) -> v1.SeriesResponse:
        async with answering(context):
            found, more = selecting.series(
                self._store.index, request.match, _start(request), selecting.limit(request.limit)
            )
            return v1.SeriesResponse(series=[v1.LabelSet(labels=dict(one)) for one in found], truncated=more)
        raise AssertionError

    async def Labels(self, request: v1.LabelsRequest, context: Context) -> v1.LabelsResponse:
        async with answering(context):
            index, start, most = self._store.index, _start(request), selecting.limit(request.limit)
            if request.name:
                found, more = selecting.values(index, request.name, request.match, start, most)
            else:
                found, more = selecting.names(index, request.match, start, most)
            return v1.LabelsResponse(values=found, truncated=more)
        raise AssertionError

    async def Targets(self, request: v1.TargetsRequest, context: Context) -> v1.TargetsResponse:
        return v1.TargetsResponse(targets=map(convert.target, self._scraper.states))

    async def PutRules(self, request: v1.PutRulesRequest, context: Context) -> v1.PutRulesResponse:
        async with answering(context):
            await self._keeper.put_rules(request.file, request.yaml)
        return v1.PutRulesResponse()

    async def Rules(self, request: v1.RulesRequest, context: Context) -> v1.RulesResponse:
        states, health = convert.rule_states(self._keeper), self._keeper.health
        interval = self._store.options.rule_interval
        return v1.RulesResponse(
            groups=[
                convert.group(one, health.get((one.file, one.name), GroupHealth()), states, interval)
                for one in self._keeper.groups()
            ]
        )

    async def Alerts(self, request: v1.AlertsRequest, context: Context) -> v1.AlertsResponse:
        return v1.AlertsResponse(alerts=self._alerts())

    async def WatchAlerts(
        self, request: v1.WatchAlertsRequest, context: Context
    ) -> AsyncIterator[v1.WatchAlertsResponse]:
        while True:
            changed = self._keeper.changed
            yield v1.WatchAlertsResponse(alerts=self._alerts())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(WATCH_SECONDS):
                    await changed.wait()

    async def Silence(self, request: v1.SilenceRequest, context: Context) -> v1.SilenceResponse:
        async with answering(context):
            starts = request.starts_at_ms or self._store.now_ms()
            texts = (request.author, request.comment, *request.matchers)
            if any(len(text) > _MAX_TEXT for text in texts) or len(request.matchers) > 50:
                raise InvalidError(f"a silence has texts of at most {_MAX_TEXT} characters, and 50 matchers")
            silence = Silence(
                request.id, tuple(request.matchers), starts, request.ends_at_ms, request.author, request.comment
            )
            return v1.SilenceResponse(id=await self._keeper.silence(silence))
        raise AssertionError

    async def ListSilences(self, request: v1.ListSilencesRequest, context: Context) -> v1.ListSilencesResponse:
        return v1.ListSilencesResponse(silences=map(convert.silence, self._keeper.silences()))

    async def Acknowledge(self, request: v1.AcknowledgeRequest, context: Context) -> v1.AcknowledgeResponse:
        async with answering(context):
            if len(request.comment) > _MAX_TEXT or len(request.author) > _MAX_TEXT:
                raise InvalidError(f"author, comment: they may have {_MAX_TEXT} characters")
            count = await self._keeper.acknowledge(request.alert, request.author, request.comment)
            return v1.AcknowledgeResponse(acknowledged=count)
        raise AssertionError

    def _alerts(self) -> list[v1.Alert]:
        return [convert.alert(kept, self._keeper.silenced_by(kept.active.labels)) for kept in self._keeper.alerts()]


def _start(request: Any) -> int | None:
    return request.start_ms if request.HasField("start_ms") else None


def _drained(queue: asyncio.Queue[Any]) -> list[Any]:
    found = []
    while not queue.empty():
        found.append(queue.get_nowait())
    return found
