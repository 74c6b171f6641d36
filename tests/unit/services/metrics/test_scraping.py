"""Targets, and the scraping of real HTTP servers that are good, bad, slow and gone."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mesh.api.registry.v1 import Instance
from services.metrics.errors import InvalidError
from services.metrics.options import MetricsOptions
from services.metrics.promql.data import is_stale
from services.metrics.promql.parse import parse_selector
from services.metrics.promql.plan import Fetch
from services.metrics.pull import exposition
from services.metrics.pull.scraper import Scraper, State
from services.metrics.pull.targets import Target, target, targets
from services.metrics.store import MetricStore
from tests.unit.services.metrics.helpers import NOW, clock_at, labels, opened

PATIENCE = 30
OPTIONS = MetricsOptions()
ME = {"job": "api", "instance": "api-1"}


def instance(name: str = "api-1", endpoint: str = "10.0.0.5:9000", **metadata: str) -> Instance:
    return Instance(service="api", instance_id=name, endpoints=[endpoint], metadata=metadata)


@pytest.mark.parametrize(
    ("metadata", "url"),
    [
        ({"metrics": "9100"}, "http://10.0.0.5:9100/metrics"),
        ({"metrics": "9100/m?x=1"}, "http://10.0.0.5:9100/m?x=1"),
        ({"metrics": "10.0.0.5:9100"}, "http://10.0.0.5:9100/metrics"),
        ({"metrics": "0.0.0.0:9100"}, "http://10.0.0.5:9100/metrics"),
        ({"admin": "10.0.0.5:7712"}, "http://10.0.0.5:7712/metrics"),
        ({"metrics": "9100", "admin": "10.0.0.5:7712"}, "http://10.0.0.5:9100/metrics"),
    ],
)
def test_where_metrics_are(metadata: dict[str, str], url: str) -> None:
    found = target(instance(**metadata))
    assert found == Target("api", "api-1", url)


@pytest.mark.parametrize(
    "said",
    [
        *("169.254.169.254:80", "127.0.0.1:9100", "10.0.0.6:9100", "0", "70000", "nonsense", "9100/a b", "http://x:1"),
        *("@10.0.0.5:9100", "10.0.0.5:9100@evil:1", "unix:/x"),
    ],
)
def test_addresses_that_were_not_registered_are_not_asked(said: str) -> None:
    found = target(instance(metrics=said))
    assert found is not None
    assert (found.url, bool(found.problem)) == ("", True)


def test_who_offers_nothing_is_no_target_and_shared_addresses_are_one() -> None:
    assert target(instance()) is None
    workers = [instance(f"w{i}", f"127.0.0.1:{i}", admin="127.0.0.1:7712") for i in (2, 1)]
    assert list(targets(workers)) == [("api", "w1")]
    local = target(instance(endpoint="[::1]:5", metrics="127.0.0.1:6"))
    assert local is not None
    assert local.url == "http://127.0.0.1:6/metrics"


def test_a_body_becomes_samples() -> None:
    body = (
        b'# TYPE a_total counter\n# HELP a_total All.\na_total{job="x",b="c"} 5\n# TYPE g gauge\ng NaN 1700000000500\n'
    )
    found = exposition.parse(body, "text/plain", ME, NOW, OPTIONS)
    assert found.series == [labels("a_total", b="c", exported_job="x", **ME), labels("g", **ME)]
    assert found.ts.tolist() == [NOW, NOW + 500]
    assert found.meta["a_total"].type == "counter"
    text = b'# TYPE h histogram\nh_bucket{le="1.0"} 1\nh_bucket{le="+Inf"} 2\nh_count 2\nh_sum 3\nh_created 5\n# EOF\n'
    found = exposition.parse(text, exposition.OPEN_METRICS, ME, NOW, OPTIONS)
    assert [dict(one)["__name__"] for one in found.series] == ["h_bucket", "h_bucket", "h_count", "h_sum"]


@pytest.mark.parametrize(
    "body",
    [
        *(b"\xff\xfe", b"a{", b"a b c d", b"{} 1", b'a{b="c} 1', b"a 1 x", b"<html></html>"),
        b"a{" + b",".join(b'l%d="x"' % i for i in range(100)) + b"} 1\n",
        b'a{b="' + b"x" * 10_000 + b'"} 1\n',
    ],
)
def test_a_bad_body_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidError):
        exposition.parse(body, "text/plain", ME, NOW, OPTIONS)


@contextlib.asynccontextmanager
async def serving(answer: bytes, *, hang: bool = False) -> AsyncIterator[int]:
    """Answer every HTTP request with these bytes, or never; yields the port."""
    open_writers: list[asyncio.StreamWriter] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        open_writers.append(writer)
        await reader.readuntil(b"\r\n\r\n")
        if not hang:
            writer.write(answer)
            await writer.drain()
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for writer in open_writers:
            writer.close()
        await server.wait_closed()


def ok(body: bytes, more: bytes = b"") -> bytes:
    return b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-type: text/plain\r\n" + more + b"\r\n" + body


def at(port: int) -> Target:
    return Target("api", "api-1", f"http://127.0.0.1:{port}/metrics")


async def until(scraper: Scraper, *healths: str) -> str:
    async with asyncio.timeout(PATIENCE):
        while scraper.states[0].health not in healths:
            await asyncio.sleep(0.01)
    return scraper.states[0].error


async def values(store: MetricStore, selector: str) -> list[float]:
    block = await store.fetch(Fetch(parse_selector(selector), NOW - 1000, NOW + 3_600_000))
    return [float(value) for value in block.values]


async def stored(store: MetricStore, selector: str, count: int) -> list[float]:
    async with asyncio.timeout(PATIENCE):
        while len(found := await values(store, selector)) < count:
            await asyncio.sleep(0.02)
    return found


async def test_a_target_is_scraped_at_once_and_ends_when_it_leaves(tmp_path: Path) -> None:
    clock = clock_at()
    async with opened(tmp_path, clock=clock) as store, serving(ok(b"things 7\n")) as port, Scraper(store) as scraper:
        scraper.follow([at(port)])
        await until(scraper, "up")
        assert await stored(store, 'things{job="api",instance="api-1"}', 1) == [7.0]
        assert await stored(store, "up", 1) == [1.0]
        clock.advance(1)
        scraper.follow([])
        assert scraper.states == []
        block_values = await stored(store, "things", 2)
        block = await store.fetch(Fetch(parse_selector("things"), NOW, NOW + 60_000))
        assert is_stale(block.values).tolist() == [False, True]
        assert len(block_values) == 2


async def test_a_counter_that_comes_up_counts_from_nothing(tmp_path: Path) -> None:
    clock = clock_at()
    bodies = [
        b"# TYPE a_total counter\na_total 5\n# TYPE g gauge\n",
        b'# TYPE a_total counter\na_total 5\na_total{code="x"} 100\n# TYPE g gauge\ng 7\n',
        b"# TYPE a_total counter\na_total 5\n",
        b'# TYPE a_total counter\na_total 5\na_total{code="x"} 100\n',
    ]
    state = State(at(1))
    async with opened(tmp_path, clock=clock) as store, Scraper(store) as scraper:
        for body in bodies:
            samples = exposition.parse(body, "text/plain", state.target.labels, store.now_ms(), OPTIONS)
            await scraper.record(state, samples, store.now_ms())
            clock.advance(1)
        assert await values(store, 'a_total{code=""}') == [5.0] * 4, "nobody looked before"
        gauge = await store.fetch(Fetch(parse_selector("g"), NOW - 1000, NOW + 60_000))
        assert [value for value in gauge.values if not is_stale(value)] == [7.0]
        found = await values(store, 'a_total{code="x"}')
        assert (found[:2], found[3]) == ([0.0, 100.0], 100.0), "and where it only was away, nothing is made up"
        block = await store.fetch(Fetch(parse_selector('a_total{code="x"}'), NOW - 1000, NOW + 60_000))
        assert block.ts.tolist() == [NOW, NOW + 1000, NOW + 2000, NOW + 3000]


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (ok(b"nonsense {"), "not in Prometheus' format"),
        (b"HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\nconnection: close\r\n\r\n", "status 302"),
        (b"HTTP/1.1 500 Oh\r\nconnection: close\r\n\r\n", "status 500"),
        (ok(b"x", b"content-encoding: gzip\r\n"), "compressed"),
        (ok(b"x 1\n" * 20_000), "longer than"),
        (b"what?\r\n\r\n", ""),
    ],
)
async def test_a_bad_target_is_down_and_says_why(tmp_path: Path, answer: bytes, says: str) -> None:
    options = MetricsOptions(max_scrape_bytes=10_000)
    async with opened(tmp_path, options) as store, serving(answer) as port, Scraper(store) as scraper:
        scraper.follow([at(port)])
        assert says in await until(scraper, "down")
        assert await stored(store, "up", 1) == [0.0]


async def test_a_target_that_hangs_is_given_up(tmp_path: Path) -> None:
    options = MetricsOptions(scrape_timeout=0.2)
    async with opened(tmp_path, options) as store, serving(b"", hang=True) as port, Scraper(store) as scraper:
        scraper.follow([at(port)])
        assert "in time" in await until(scraper, "down")


async def test_an_address_that_is_refused_is_shown_and_not_asked(tmp_path: Path) -> None:
    async with opened(tmp_path) as store, Scraper(store) as scraper:
        scraper.follow([Target("api", "api-1", "", "no")])
        assert [(state.health, state.error) for state in scraper.states] == [("refused", "no")]
