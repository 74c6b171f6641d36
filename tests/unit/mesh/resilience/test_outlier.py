from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.resilience.outlier import Host, OutlierDetector
from mesh.resilience.policy import OutlierOptions
from mesh.testing import ManualClock


def make(count: int, options: OutlierOptions) -> tuple[OutlierDetector, list[Host], ManualClock]:
    clock = ManualClock()
    detector = OutlierDetector(options, clock.now())
    return detector, [detector.host(number) for number in range(count)], clock


def ejected(hosts: list[Host], clock: ManualClock) -> list[int]:
    return [number for number, host in enumerate(hosts) if host.ejected_until > clock.now()]


def test_failures_in_a_row_eject_and_time_heals() -> None:
    detector, hosts, clock = make(4, OutlierOptions(base_ejection_seconds=30))
    for _ in range(4):
        detector.record(hosts[1], clock.now(), failed=True)
    detector.record(hosts[1], clock.now(), failed=False)
    for _ in range(4):
        detector.record(hosts[1], clock.now(), failed=True)
    assert ejected(hosts, clock) == []
    detector.record(hosts[1], clock.now(), failed=True)
    assert ejected(hosts, clock) == [1]
    clock.advance(29.9)
    assert ejected(hosts, clock) == [1]
    clock.advance(0.2)
    assert ejected(hosts, clock) == []


def test_each_ejection_lasts_longer_and_good_conduct_is_remembered() -> None:
    detector, hosts, clock = make(4, OutlierOptions(base_ejection_seconds=30, max_ejection_seconds=100))
    lasted = []
    for _ in range(5):
        for _ in range(5):
            detector.record(hosts[0], clock.now(), failed=True)
        lasted.append(hosts[0].ejected_until - clock.now())
        clock.advance(lasted[-1])
    # After each ejection one interval has passed, in which nothing spoke against it.
    assert lasted[0] == 30
    assert max(lasted) <= 100
    for _ in range(20):
        clock.advance(10)
        detector.record(hosts[0], clock.now(), failed=False)
    for _ in range(5):
        detector.record(hosts[0], clock.now(), failed=True)
    assert hosts[0].ejected_until - clock.now() == 30


def test_a_repeated_offender_stays_out_longer() -> None:
    detector, hosts, clock = make(4, OutlierOptions(base_ejection_seconds=30, interval_seconds=3600))
    lasted = []
    for _ in range(12):
        for _ in range(5):
            detector.record(hosts[0], clock.now(), failed=True)
        lasted.append(hosts[0].ejected_until - clock.now())
        clock.advance(lasted[-1])
    assert lasted[:3] == [30, 60, 90]
    assert lasted[-1] == 300
    assert hosts[0].ejections == 12


def test_the_worst_success_rate_is_an_outlier_and_a_general_failure_is_none() -> None:
    options = OutlierOptions(consecutive_failures=0, success_rate_calls=50)
    detector, hosts, clock = make(6, options)
    for share in (0.05, 0.6):
        clock.advance(10)
        for call in range(100):
            for host in hosts[:5]:
                detector.record(host, clock.now(), failed=call < share * 100)
            detector.record(hosts[5], clock.now(), failed=call < 60)
        clock.advance(10)
        detector.record(hosts[0], clock.now(), failed=False)
        assert ejected(hosts, clock) == ([5] if share == 0.05 else []), share
        clock.advance(60)


def test_too_few_calls_or_hosts_prove_nothing() -> None:
    for count, calls in ((6, 49), (4, 100)):
        detector, hosts, clock = make(count, OutlierOptions(consecutive_failures=0, success_rate_calls=50))
        for _ in range(calls):
            for host in hosts:
                detector.record(host, clock.now(), failed=host is hosts[0])
        clock.advance(10)
        detector.record(hosts[1], clock.now(), failed=False)
        assert ejected(hosts, clock) == []


@pytest.mark.parametrize(("factor", "out"), [(None, []), (3.0, [2])])
def test_latency_is_judged_where_asked(factor: float | None, out: list[int]) -> None:
    options = OutlierOptions(latency_factor=factor, success_rate_calls=10)
    detector, hosts, clock = make(5, options)
    for _ in range(10):
        for host in hosts:
            detector.record(host, clock.now(), failed=False, seconds=0.4 if host is hosts[2] else 0.1)
    clock.advance(10)
    detector.record(hosts[0], clock.now(), failed=False)
    assert ejected(hosts, clock) == out


def test_calls_from_before_the_ejection_do_not_make_it_longer() -> None:
    detector, hosts, clock = make(2, OutlierOptions())
    for _ in range(100):
        detector.record(hosts[0], clock.now(), failed=True)
    assert hosts[0].ejected_until == clock.now() + 30
    assert hosts[0].ejections == 1


def test_a_lone_endpoint_is_never_ejected() -> None:
    detector, hosts, clock = make(1, OutlierOptions())
    for _ in range(100):
        detector.record(hosts[0], clock.now(), failed=True)
    assert ejected(hosts, clock) == []


ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("fail"), st.integers(0, 9), st.integers(1, 12)),
        st.tuples(st.just("serve"), st.integers(0, 9), st.integers(1, 12)),
        st.tuples(st.just("wait"), st.integers(1, 40), st.just(0)),
        st.tuples(st.just("shrink"), st.integers(1, 10), st.just(0)),
        st.tuples(st.just("join"), st.integers(0, 9), st.just(0)),
    ),
    max_size=60,
)


@given(ACTIONS, st.floats(0, 1))
def test_never_more_than_the_share_is_out(actions: list[tuple[str, int, int]], share: float) -> None:
    options = OutlierOptions(
        max_ejection_share=share, success_rate_calls=5, success_rate_hosts=2, success_rate_factor=1.0, latency_factor=2
    )
    detector, _, clock = make(10, options)
    for action, number, times in actions:
        if action == "wait":
            clock.advance(number)
        elif action == "shrink":
            detector.follow(range(number))
        elif action == "join":
            detector.host(number)
        elif number in detector.hosts:
            for call in range(times):
                detector.record(detector.hosts[number], clock.now(), failed=action == "fail", seconds=0.01 * call)
        out = [host for host in detector.hosts.values() if host.ejected_until > clock.now()]
        assert len(out) <= share * len(detector.hosts) + 1e-6
    clock.advance(301)
    assert ejected(list(detector.hosts.values()), clock) == [], "everybody comes back"
