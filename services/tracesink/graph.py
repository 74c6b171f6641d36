"""Spans of many traces at once: who is whose parent, who calls whom, where the time goes. Pure; numpy does the work.

Durations are nanoseconds; sums of floats are exact here, as no span lasts for more than 2^53 of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from services.tracesink.trees import CLIENT, CONSUMER, PRODUCER, SERVER

# Spans that a call goes through, of edges, between a caller's and its callee's.
MAX_PASSED = 16
QUANTILES = (0.5, 0.95, 0.99)


@dataclass(frozen=True, slots=True)
class Graph:
    """Spans, in the order in which they began, and their parents."""

    start: np.ndarray
    end: np.ndarray
    # The place of each span's parent, -1 where it is not among them.
    parent: np.ndarray
    kind: np.ndarray
    failed: np.ndarray
    # By their places in `names`.
    service: np.ndarray
    peer: np.ndarray
    names: list[str]
    method: pa.Array
    # Which of them were asked for; the others are there for what they say of these.
    wanted: np.ndarray

    @classmethod
    def of(cls, table: pa.Table) -> Graph:
        """Take spans with the columns of these names, trace_id, span_id and parent_span_id; of flags, 0 or 1."""
        order = pc.sort_indices(table, [("start_ns", "ascending"), ("end_ns", "descending"), ("row_id", "ascending")])
        table = table.take(order).combine_chunks()
        names = pa.chunked_array([*table["service"].chunks, *table["peer_service"].chunks], pa.string())
        coded = names.combine_chunks().dictionary_encode()
        service, peer = np.split(_numpy(coded.indices), 2)
        return cls(
            start=_numpy(table["start_ns"]),
            end=_numpy(table["end_ns"]),
            parent=_parents(table),
            kind=_numpy(table["kind"]),
            failed=_numpy(table["failed"]) != 0,
            service=service,
            peer=peer,
            names=coded.dictionary.to_pylist(),
            method=table["method"].combine_chunks(),
            wanted=_numpy(table["wanted"]) != 0,
        )

    @property
    def duration(self) -> np.ndarray:
        found: np.ndarray = np.maximum(self.end - self.start, 0)
        return found

    def code(self, name: str) -> int:
        """Return the place of a service's name, -1 if there is no span of it."""
        return self.names.index(name) if name in self.names else -1


def _parents(table: pa.Table) -> np.ndarray:
    count = table.num_rows
    if not count:
        return np.zeros(0, np.int64)
    ids = pa.chunked_array([*table["span_id"].chunks, *table["parent_span_id"].chunks], pa.string())
    coded = ids.combine_chunks().dictionary_encode()
    spans, parents = np.split(_numpy(coded.indices), 2)
    traces = _numpy(table["trace_id"].combine_chunks().dictionary_encode().indices)
    width = len(coded.dictionary)
    keys, wanted = traces * width + spans, traces * width + parents
    # Stable: of several with one id the first in time is the parent.
    order = np.argsort(keys, kind="stable")
    at = np.minimum(np.searchsorted(keys[order], wanted), count - 1)
    found = order[at]
    none = (keys[found] != wanted) | (found == np.arange(count)) | (_numpy(pc.equal(table["parent_span_id"], "")) != 0)
    return np.where(none, -1, found)


def self_times(graph: Graph) -> np.ndarray:
    """Return for each span how long none of its children was under way."""
    children = np.flatnonzero(graph.parent >= 0)
    above = graph.parent[children]
    start = np.maximum(graph.start[children], graph.start[above])
    end = np.minimum(graph.end[children], graph.end[above])
    lasting = start < end
    above, start, end = above[lasting], start[lasting], end[lasting]
    order = np.lexsort((start, above))
    above, start, end = above[order], start[order], end[order]
    reached = _running_max(above, end)
    before = np.empty_like(reached)
    before[:1], before[1:] = start[:1], reached[:-1]
    first = np.ones(len(above), bool)
    first[1:] = above[1:] != above[:-1]
    before = np.where(first, start, before)
    covered = np.maximum(end - np.maximum(start, before), 0)
    total = np.bincount(above, covered, len(graph.start)) if len(above) else np.zeros(len(graph.start))
    return graph.duration - total.astype(np.int64)


def _running_max(groups: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return the largest value so far within each run of equal groups."""
    found, step = values.copy(), 1
    while step < len(groups):
        same = groups[step:] == groups[:-step]
        if not same.any():
            break
        found[step:] = np.where(same, np.maximum(found[step:], found[:-step]), found[step:])
        step *= 2
    return found


@dataclass(frozen=True, slots=True)
class Calls:
    """Calls between services, one a row; services by their places in the graph's names."""

    caller: np.ndarray
    callee: np.ndarray
    failed: np.ndarray
    duration: np.ndarray


def calls(graph: Graph, start_ns: int, end_ns: int, proxy: str, *, shown: bool = False) -> Calls:
    """Return the calls that began in a time, through spans of the service `proxy` as if they were not there.

    Two spans of one trace, parent and child, of two services are a call; so are a client's and a server's of one. A
    client's or the proxy's span that has no such child is a call to its peer service. Where the caller tells (by a
    client's span), or else the proxy, the tries on one service are one call, as it saw it. With `shown` the proxy is a
    service like any other.
    """
    passing = graph.service == graph.code(proxy)
    through = passing & (not shown)
    telling = passing | (graph.kind == CLIENT)
    told = np.zeros(len(graph.start), bool)
    found: list[tuple[np.ndarray, ...]] = []

    def add(entry: np.ndarray, first: np.ndarray, callee: np.ndarray) -> None:
        found.append((entry, callee, *_callers(graph, first, through, telling, told)))

    above = graph.parent
    inner = np.where(above >= 0, above, 0)
    crosses = (graph.service != graph.service[inner]) | ((graph.kind[inner] == CLIENT) & (graph.kind == SERVER))
    calling = (graph.kind != CONSUMER) & (graph.kind[inner] != PRODUCER)
    entries = np.flatnonzero((above >= 0) & crosses & calling & ~through)
    add(entries, above[entries], graph.service[entries])
    # Clients of which nobody else tells: those that have tries below have left it to these.
    again = np.zeros(len(graph.start), bool)
    tries = np.flatnonzero((above >= 0) & (graph.kind == CLIENT) & (graph.service == graph.service[inner]))
    again[above[tries]] = True
    clients = telling & ~again & (_named(graph) >= 0)
    for mine in (passing, ~passing):  # the proxy's first: they are behind its callers'
        alone = np.flatnonzero(clients & mine & ~told)
        add(alone, alone, graph.peer[alone])
    entry, callee, caller, teller = (np.concatenate(column) for column in zip(*found, strict=True))
    at = np.where(teller >= 0, teller, entry)
    _, once = np.unique(at * len(graph.names) + callee, return_index=True)
    inside = (graph.start[at] >= start_ns) & (graph.start[at] < end_ns)
    keep = once[inside[once]]
    at = at[keep]
    return Calls(graph.service[caller[keep]], callee[keep], graph.failed[at], graph.duration[at])


def blamed(graph: Graph, proxy: str) -> np.ndarray:
    """Return whose time each span's is: its service's, or its peer's where the proxy alone tells of a call."""
    alone = graph.service == graph.code(proxy)
    alone[graph.parent[graph.parent >= 0]] = False
    return np.where(alone & (_named(graph) >= 0), graph.peer, graph.service)


def _named(graph: Graph) -> np.ndarray:
    """Return the peer services, -1 where a span names none."""
    return np.where(graph.peer == graph.code(""), -1, graph.peer)


def _callers(
    graph: Graph, first: np.ndarray, through: np.ndarray, telling: np.ndarray, told: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return from whose spans the calls of the spans `first` came, and the spans that tell of them, or -1.

    All on the way have told what they did.
    """
    place = first
    teller = np.where(telling[place], place, -1)
    told[place] = True
    for _ in range(MAX_PASSED):
        moving = through[place] & (graph.parent[place] >= 0)
        if not moving.any():
            break
        place = np.where(moving, graph.parent[place], place)
        teller = np.where(telling[place], place, teller)
        told[place] = True
    return place, teller


@dataclass(frozen=True, slots=True)
class Group:
    """Rows of one group: their places, and the sum and quantiles of a column of each."""

    key: tuple[int, ...]
    count: int
    failed: int
    total: int
    quantiles: tuple[int, ...]


def grouped(keys: tuple[np.ndarray, ...], failed: np.ndarray, values: np.ndarray) -> list[Group]:
    """Return the groups of rows that are alike in `keys`; quantiles lie between the two nearest values."""
    if not len(values):
        return []
    order = np.lexsort((values, *reversed(keys)))
    sorted_keys = [key[order] for key in keys]
    values, failed = values[order], failed[order]
    new = np.ones(len(values), bool)
    new[1:] = np.logical_or.reduce([key[1:] != key[:-1] for key in sorted_keys])
    starts = np.flatnonzero(new)
    sizes = np.diff(np.append(starts, len(values)))
    totals = np.add.reduceat(values, starts)
    bad = np.add.reduceat(failed.astype(np.int64), starts)
    quantiles = np.stack([_quantile(values, starts, sizes, q) for q in QUANTILES], axis=1)
    rows = zip(
        zip(*(key[starts].tolist() for key in sorted_keys), strict=True),
        *(sizes.tolist(), bad.tolist(), totals.tolist(), quantiles.tolist()),
        strict=True,
    )
    return [Group(key, size, wrong, total, tuple(found)) for key, size, wrong, total, found in rows]


def _quantile(values: np.ndarray, starts: np.ndarray, sizes: np.ndarray, q: float) -> np.ndarray:
    at = q * (sizes - 1)
    low = np.floor(at).astype(np.int64)
    high = np.minimum(low + 1, sizes - 1)
    one, two = values[starts + low], values[starts + high]
    found: np.ndarray = np.rint(one + (two - one) * (at - low)).astype(np.int64)
    return found


def _numpy(array: pa.Array | pa.ChunkedArray) -> np.ndarray:
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
    found: np.ndarray = array.to_numpy(zero_copy_only=False)
    return found.astype(np.int64) if found.dtype != bool else found
