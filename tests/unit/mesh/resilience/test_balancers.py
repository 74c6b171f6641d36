"""What all balancers have in common, and what each is for."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.resilience.balancer import Balancer, RoundRobin
from mesh.resilience.least_request import LeastRequest
from mesh.resilience.peak_ewma import Latency, PeakEwma
from mesh.resilience.ring_hash import RingHash
from mesh.testing import ManualClock


class Item:
    def __init__(self, number: int) -> None:
        self.number = number
        self.in_flight = 0

    def __repr__(self) -> str:
        return f"item-{self.number}"


Make = Callable[[Sequence[Item], Sequence[int]], Balancer[Item]]


def round_robin(items: Sequence[Item], weights: Sequence[int]) -> Balancer[Item]:
    return RoundRobin(items, weights)


def least_request(items: Sequence[Item], weights: Sequence[int]) -> Balancer[Item]:
    return LeastRequest(items, weights, random.Random(7).random)


def peak_ewma(items: Sequence[Item], weights: Sequence[int]) -> Balancer[Item]:
    clock = ManualClock()
    latencies = [Latency(10, 0.03, clock.now()) for _ in items]
    return PeakEwma(items, weights, latencies, clock.now, random.Random(7).random)


def ring_hash(items: Sequence[Item], weights: Sequence[int], factor: float = 1.25) -> RingHash[Item]:
    return RingHash(items, weights, list(map(repr, items)), factor, random.Random(7).random)


ALL = pytest.mark.parametrize("make", [round_robin, least_request, peak_ewma, ring_hash])


def anybody(_item: Item) -> bool:
    return True


def items_of(count: int) -> list[Item]:
    return [Item(number) for number in range(count)]


@ALL
@given(
    weights=st.lists(st.integers(0, 300), max_size=8),
    shut=st.sets(st.integers(0, 7)),
    loads=st.lists(st.integers(0, 50), min_size=8, max_size=8),
    key=st.binary(max_size=4),
)
def test_finds_one_that_is_open_wherever_there_is_one(
    make: Make, weights: list[int], shut: set[int], loads: list[int], key: bytes
) -> None:
    items = items_of(len(weights))
    for item in items:
        item.in_flight = loads[item.number]
    balancer = make(items, weights)
    for _ in range(5):
        asked: list[Item] = []

        def admits(item: Item, asked: list[Item] = asked) -> bool:
            asked.append(item)
            return item.number not in shut

        got = balancer.pick(key, admits)
        may = {item for item in items if weights[item.number] and item.number not in shut}
        assert (got in may) if may else got is None
        assert len(asked) == len(set(asked)), "nobody is asked twice"
        assert got is None or asked[-1] is got, "a yes is the last word: it may have cost something"
        assert got is not None or set(asked) == {item for item in items if weights[item.number]}


@ALL
def test_weights_are_followed_by_an_idle_service(make: Make) -> None:
    items = items_of(3)
    balancer = make(items, [300, 100, 0])
    seen = Counter(balancer.pick(b"", anybody) for _ in range(4000))
    assert seen[items[2]] == 0
    assert 0.65 < seen[items[0]] / 4000 < 0.85, seen


@pytest.mark.parametrize("make", [least_request, peak_ewma])
def test_weights_are_followed_by_a_busy_service(make: Make) -> None:
    """Every call stays: the calls in flight end up in proportion to the weights."""
    items = items_of(4)
    balancer = make(items, [100, 100, 200, 400])
    for _ in range(4000):
        got = balancer.pick(b"", anybody)
        assert got is not None
        got.in_flight += 1
    for item, share in zip(items, (0.125, 0.125, 0.25, 0.5), strict=True):
        assert item.in_flight / 4000 == pytest.approx(share, rel=0.1)


@pytest.mark.parametrize("make", [least_request, peak_ewma])
def test_the_busiest_of_all_gets_nothing(make: Make) -> None:
    items = items_of(5)
    items[3].in_flight = 10
    balancer = make(items, [100] * 5)
    assert items[3] not in {balancer.pick(b"", anybody) for _ in range(500)}


def test_two_choices_are_far_more_even_than_one() -> None:
    """Balls into bins: the fullest of n bins has about ln ln n more than the mean, and not ln n / ln ln n."""
    items = items_of(100)
    balancer = least_request(items, [100] * 100)
    for _ in range(10_000):
        got = balancer.pick(b"", anybody)
        assert got is not None
        got.in_flight += 1
    assert max(item.in_flight for item in items) <= 100 + 5


def test_latency_peaks_at_once_and_decays() -> None:
    clock = ManualClock()
    latency = Latency(10.0, 0.03, clock.now())
    assert latency.at(clock.now()) == 0.03
    latency.observe(2.0, clock.now())
    assert latency.at(clock.now()) == 2.0
    latency.observe(0.01, clock.now())
    assert latency.at(clock.now()) == 2.0, "one fast call proves nothing"
    clock.advance(10)
    assert latency.at(clock.now()) == pytest.approx(2 / 2.71828, rel=1e-3)
    for _ in range(100):
        clock.advance(1)
        latency.observe(0.01, clock.now())
    assert latency.at(clock.now()) == pytest.approx(0.01, rel=0.01)


@given(st.lists(st.tuples(st.floats(0, 20), st.floats(0, 5), st.booleans()), max_size=50))
def test_latency_stays_between_nothing_and_the_worst(steps: list[tuple[float, float, bool]]) -> None:
    clock = ManualClock()
    latency = Latency(10.0, 0.03, clock.now())
    for pause, seconds, failed in steps:
        clock.advance(pause)
        before = latency.at(clock.now())
        (latency.fail if failed else latency.observe)(seconds, clock.now())
        after = latency.at(clock.now())
        assert 0 <= after <= 60
        assert after >= min(before, seconds) * (1 - 1e-9)
        assert after > before or not failed or before > 30


def test_slow_and_failing_items_get_fewer_calls() -> None:
    clock = ManualClock()
    items = items_of(3)
    latencies = [Latency(10.0, 0.03, clock.now()) for _ in items]
    balancer = PeakEwma(items, [100] * 3, latencies, clock.now, random.Random(3).random)
    seen: Counter[Item | None] = Counter()
    for _ in range(2000):
        clock.advance(0.01)
        got = balancer.pick(b"", anybody)
        assert got is not None
        seen[got] += 1
        latency = latencies[got.number]
        if got.number == 0:
            latency.observe(0.5, clock.now())
        elif got.number == 1:
            latency.fail(0.0001, clock.now())
        else:
            latency.observe(0.005, clock.now())
    assert seen[items[2]] > 1200, seen
    assert seen[items[0]] + seen[items[1]] < 700, seen
    assert min(seen.values()) > 0, "they are tried again now and then"


def keys(count: int) -> list[bytes]:
    return [b"user-%d" % number for number in range(count)]


def owners(ring: RingHash[Item], count: int = 4000) -> dict[bytes, Item | None]:
    return {key: ring.pick(key, anybody) for key in keys(count)}


@pytest.mark.parametrize("count", [2, 5, 20])
def test_about_one_in_n_keys_moves_when_an_item_joins(count: int) -> None:
    items = items_of(count + 1)
    before, after = owners(ring_hash(items[:-1], [100] * count)), owners(ring_hash(items, [100] * (count + 1)))
    moved = {key for key in before if before[key] is not after[key]}
    assert {after[key] for key in moved} == {items[-1]}, "those that move go to the new one"
    assert len(moved) / len(before) == pytest.approx(1 / (count + 1), rel=0.35)


def test_only_the_keys_of_a_dead_item_move() -> None:
    items = items_of(5)
    ring = ring_hash(items, [100] * 5)
    before = owners(ring)
    after = {key: ring.pick(key, lambda item: item is not items[2]) for key in before}
    assert all((before[key] is items[2]) == (before[key] is not after[key]) for key in before)
    assert len({after[key] for key in before if before[key] is items[2]}) == 4, "over all others"


def test_a_change_of_weight_moves_little() -> None:
    items = items_of(5)
    before, after = owners(ring_hash(items, [100] * 5)), owners(ring_hash(items, [100, 100, 100, 100, 90]))
    moved = [key for key in before if before[key] is not after[key]]
    assert all(before[key] is items[4] for key in moved)
    assert len(moved) < 0.05 * len(before)


def test_every_process_makes_the_same_ring() -> None:
    """The owners of some keys as they were when this was written: edges of two versions must agree."""
    ring = ring_hash(items_of(4), [100] * 4)
    owned = [item.number for key in keys(8) if (item := ring.pick(key, anybody))]
    assert owned == [1, 3, 0, 2, 3, 2, 2, 3]


@given(st.lists(st.integers(0, 5), min_size=50, max_size=200))
def test_no_item_is_loaded_over_its_bound(hot: list[int]) -> None:
    items = items_of(5)
    ring = ring_hash(items, [100] * 5)
    for total, number in enumerate(hot):
        got = ring.pick(b"hot-%d" % number, anybody)
        assert got is not None
        got.in_flight += 1
        assert got.in_flight <= 1.25 * (total + 1) / 5 + 1


def test_an_idle_owner_always_takes_its_key() -> None:
    items = items_of(3)
    ring = ring_hash(items, [100] * 3)
    owner = ring.pick(b"key", anybody)
    assert owner is not None
    for item in items:
        item.in_flight = 0 if item is owner else 50
    assert ring.pick(b"key", anybody) is owner
