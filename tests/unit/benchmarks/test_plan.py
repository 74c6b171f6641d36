"""The order in which a benchmark measures its peers favours none of them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from benchmarks.bench import Bench
from benchmarks.cases.case import Case
from benchmarks.cases.registry import CASES
from benchmarks.peers.peer import Running, Site
from benchmarks.plan import plan


class Stub:
    def __init__(self, name: str, *, main: bool) -> None:
        self.name = name
        self.main = main

    def missing(self) -> str:
        return ""

    def start(self, site: Site) -> Running:
        raise NotImplementedError


MAIN = [Stub("envoy", main=True), Stub("edge-wire", main=True)]
OTHERS = [Stub(name, main=False) for name in ("nginx", "haproxy", "nghttpx")]


def order(case: Case, *, rounds: int, others_rounds: int = 3) -> list[list[str]]:
    bench = Bench(Path(), [], quick=False)
    planned = plan(case, bench, MAIN + OTHERS, rounds, others_rounds)
    return [[turn.peer.name for turn in turns] for turns in planned.rounds]


def test_main_peers_come_in_mirrored_order_and_begin_in_turn() -> None:
    rounds = order(Case("x", "", ()), rounds=8)
    assert [names[:4] for names in rounds[:2]] == [
        ["envoy", "edge-wire", "edge-wire", "envoy"],
        ["edge-wire", "envoy", "envoy", "edge-wire"],
    ]
    assert Counter(names[0] for names in rounds) == {"envoy": 4, "edge-wire": 4}


def test_others_have_their_rounds_spread_over_all() -> None:
    rounds = order(Case("x", "", ()), rounds=7)
    assert [number for number, names in enumerate(rounds) if "nginx" in names] == [0, 3, 5]
    assert len({names[4] for names in rounds if len(names) > 4}) > 1


def test_a_case_can_be_for_some_alone() -> None:
    assert order(Case("x", "", (), wide=False, slices=1), rounds=1) == [["envoy", "edge-wire"]]
    assert order(Case("x", "", (), only=("edge-wire",), most_rounds=1, slices=1), rounds=7) == [["edge-wire"]]
    once = order(Case("x", "", (), most_others_rounds=1), rounds=7)
    assert sum("haproxy" in names for names in once) == 1


def test_every_case_compares_the_edge_with_envoy_in_every_round_unless_it_is_about_the_edge_alone() -> None:
    for case in CASES:
        rounds = order(case, rounds=7)
        if case.only:
            assert rounds == [list(case.only)]
        else:
            assert len(rounds) == 7
            assert all(Counter(names[: 2 * case.slices])["edge-wire"] == case.slices for names in rounds), case.name
