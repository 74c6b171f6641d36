"""The scraper: follows the registry, and asks every instance that offers metrics for them."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Iterable
from dataclasses import dataclass

import httpx
import numpy as np

from mesh.errors import MeshError
from mesh.telemetry.snapshot import counts_up
from services.metrics.errors import InvalidError
from services.metrics.promql.data import STALE
from services.metrics.promql.labels import NAME, Labels, from_mapping, get
from services.metrics.pull import exposition
from services.metrics.pull.targets import Target
from services.metrics.samples import Meta, Samples, source_of
from services.metrics.store import MetricStore

# First scrapes are spread over this much, so that a fleet that starts is not asked all at once.
FIRST_WITHIN = 0.5

_META = {
    "up": Meta("gauge", "", "1 when the last scrape of the instance succeeded."),
    "scrape_duration_seconds": Meta("gauge", "seconds", "How long the scrape took."),
    "scrape_samples_scraped": Meta("gauge", "", "How many samples the instance returned."),
}

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class State:
    """How the scraping of a target goes."""

    target: Target
    # "unknown", "up", "down" or "refused".
    health: str = "unknown"
    error: str = ""
    at_ms: int = 0
    seconds: float = 0.0
    # What the last scrape brought, nothing when it failed, and when that was.
    series: frozenset[Labels] = frozenset()
    scraped_ms: int = 0


class Scraper:
    """Use as `async with Scraper(store)`; tell it with `follow` who there is."""

    def __init__(self, store: MetricStore) -> None:
        self._store = store
        self._options = store.options
        self._states: dict[tuple[str, str], State] = {}
        self._tasks: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._ending: set[asyncio.Task[None]] = set()
        self._slots = asyncio.Semaphore(self._options.scrapes_at_once)
        # No proxies and passwords of this process' environment, and no redirect: only what was registered is asked.
        self._client = httpx.AsyncClient(
            trust_env=False,
            follow_redirects=False,
            timeout=self._options.scrape_timeout,
            headers={"accept": exposition.ACCEPT, "accept-encoding": "identity", "user-agent": "meshplane"},
            limits=httpx.Limits(max_connections=1024, max_keepalive_connections=256),
        )

    async def __aenter__(self) -> Scraper:
        return self

    async def __aexit__(self, *_: object) -> None:
        tasks = [*self._tasks.values(), *self._ending]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._client.aclose()

    @property
    def states(self) -> list[State]:
        """All targets, in order."""
        return [self._states[key] for key in sorted(self._states)]

    def follow(self, targets: Iterable[Target]) -> None:
        """Scrape these, and no others: each that is new within a moment, each that is gone no more."""
        wanted = {target.key: target for target in targets}
        for key in [key for key, state in self._states.items() if state.target != wanted.get(key)]:
            self._leave(key)
        for key, target in wanted.items():
            if key not in self._states:
                state = self._states[key] = State(target)
                if target.problem:
                    state.health, state.error = "refused", target.problem
                else:
                    self._tasks[key] = asyncio.create_task(self._keep(state))

    def _leave(self, key: tuple[str, str]) -> None:
        state = self._states.pop(key)
        task = self._tasks.pop(key, None)
        if task is not None:
            task.cancel()
            ending = asyncio.create_task(self._end(state, task))
            self._ending.add(ending)
            ending.add_done_callback(self._ending.discard)

    async def _keep(self, state: State) -> None:
        """Scrape one target for ever."""
        loop = asyncio.get_running_loop()
        interval = self._options.scrape_interval
        due = loop.time() + random.uniform(0, min(FIRST_WITHIN, interval))  # noqa: S311 - not a secret
        while True:
            await asyncio.sleep(due - loop.time())
            async with self._slots:
                await self._scrape(state)
            due = max(due + interval, loop.time())

    async def _scrape(self, state: State) -> None:
        at_ms, began = self._store.now_ms(), time.perf_counter()
        samples: Samples | None = None
        try:
            body, content_type = await self._get(state.target.url)
            samples = await asyncio.to_thread(
                exposition.parse, body, content_type, state.target.labels, at_ms, self._options
            )
            state.health, state.error = "up", ""
        except (InvalidError, httpx.HTTPError, httpx.InvalidURL, TimeoutError, OSError) as error:
            state.health, state.error = "down", _reason(error)
        state.at_ms, state.seconds = at_ms, time.perf_counter() - began
        await self.record(state, samples, at_ms)

    async def _get(self, url: str) -> tuple[bytes, str]:
        """Return the body and its content type."""
        body = bytearray()
        async with asyncio.timeout(self._options.scrape_timeout), self._client.stream("GET", url) as reply:
            if reply.status_code != httpx.codes.OK:
                raise InvalidError(f"it answered with status {reply.status_code}")
            if reply.headers.get("content-encoding", "identity") != "identity":
                raise InvalidError("its answer is compressed, which was not asked for")
            async for chunk in reply.aiter_raw():
                body += chunk
                if len(body) > self._options.max_scrape_bytes:
                    raise InvalidError(f"its answer is longer than {self._options.max_scrape_bytes} bytes")
        return bytes(body), reply.headers.get("content-type", "")

    async def record(self, state: State, samples: Samples | None, at_ms: int) -> None:
        """Store what a scrape brought, stale markers for what it no longer brought, and how it went."""
        found = frozenset(samples.series) if samples is not None else frozenset()
        about = {
            "up": float(samples is not None),
            "scrape_duration_seconds": state.seconds,
            "scrape_samples_scraped": float(len(found)),
        }
        own = {from_mapping({NAME: name, **state.target.labels}): value for name, value in about.items()}
        gone = dict.fromkeys(state.series - found - own.keys(), STALE)
        extra = _at(at_ms, own | gone, _META)
        if samples is not None:
            if state.series and at_ms > state.scraped_ms:
                extra = _joined(extra, _at(state.scraped_ms, self._born(state, samples), {}))
            extra = _joined(samples, extra)
            state.scraped_ms = at_ms
        state.series = found
        await self._append(state, extra)

    def _born(self, state: State, samples: Samples) -> dict[Labels, float]:
        """Return 0 for what counts and was not there at the scrape before, nor ever: it began after that."""
        known, meta = self._store.index, samples.meta
        new = (labels for labels in samples.series if labels not in state.series and known.slot(labels) is None)
        named = ((labels, get(labels, NAME)) for labels in new)
        return {labels: 0.0 for labels, name in named if name in meta and counts_up(name, meta[name].type)}

    async def _end(self, state: State, task: asyncio.Task[None]) -> None:
        """Mark all series of a target that has left as ended."""
        await asyncio.gather(task, return_exceptions=True)
        about = [from_mapping({NAME: name, **state.target.labels}) for name in _META]
        markers = dict.fromkeys((*state.series, *about), STALE)
        if state.at_ms:
            await self._append(state, _at(max(self._store.now_ms(), state.at_ms + 1), markers, {}))
        if state.target.key not in self._states:
            self._store.forget_source(_source(state.target))

    async def _append(self, state: State, samples: Samples) -> None:
        try:
            stored = await self._store.append(samples, source=_source(state.target))
        except MeshError as error:
            # The next scrape may do; a gap in the samples says that this one did not.
            _log.warning("the metrics of %s could not be stored: %s", _source(state.target), error)
            return
        if stored.rejected:
            state.error = stored.reason


def _source(target: Target) -> str:
    return source_of(target.job, target.instance)


def _at(at_ms: int, values: dict[Labels, float], meta: dict[str, Meta]) -> Samples:
    count = len(values)
    return Samples(
        list(values),
        np.arange(count, dtype=np.int64),
        np.full(count, at_ms, np.int64),
        np.array(list(values.values()), np.float64),
        meta,
    )


def _joined(first: Samples, second: Samples) -> Samples:
    return Samples(
        [*first.series, *second.series],
        np.concatenate((first.which, second.which + len(first.series))),
        np.concatenate((first.ts, second.ts)),
        np.concatenate((first.values, second.values)),
        {**first.meta, **second.meta},
    )


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError | httpx.TimeoutException):
        return "it did not answer in time"
    return " ".join(str(error).split())[:300] or type(error).__name__
