"""`make bench`: runs the edge and its peers in turn, prints how they compare, and writes it down.

make bench                                        all cases, 7 rounds (under half an hour)
make bench ARGS="--quick"                         2 short rounds, for a look
make bench ARGS="--cases unary-4x16,memory --peers envoy,edge-wire --rounds 9"
make bench ARGS="--list"
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType

from benchmarks import machine, tools
from benchmarks.bench import Bench
from benchmarks.cases.case import Case, Numbers
from benchmarks.cases.registry import CASES
from benchmarks.load.backends import backends
from benchmarks.load.client import LoadError
from benchmarks.peers import edge
from benchmarks.peers.envoy import Envoy
from benchmarks.peers.haproxy import Haproxy
from benchmarks.peers.nghttpx import Nghttpx
from benchmarks.peers.nginx import Nginx
from benchmarks.peers.peer import Peer
from benchmarks.plan import Plan, Progress, plan
from benchmarks.processes import FailedToStartError, Others
from benchmarks.report import picture, text
from benchmarks.report.results import Results, new_path

_ROUNDS, _QUICK_ROUNDS = 7, 2
_OTHERS_ROUNDS, _QUICK_OTHERS_ROUNDS = 3, 1

# When others take more of the machine than this before a run begins, its numbers will tell more of them than of us.
_CALM = 0.1
_LISTEN_SECONDS = 2.0


def main(arguments: Sequence[str]) -> int:
    options = _options(arguments)
    if options.list:
        print("\n".join(f"{case.name:20} {case.title}" for case in CASES))
        return 0
    try:
        for line in tools.check():
            print(line)
        tools.build("load")
        tools.build("backend")
    except tools.MissingToolError as error:
        print(error, file=sys.stderr)
        return 1
    signal.signal(signal.SIGTERM, _stop)
    if (others := _others()) > _CALM:
        print(f"WARNING: other programs take {others:.0%} of the machine: do not trust what this run says")
    cases = [case for case in CASES if not options.cases or case.name in options.cases]
    results = Results(machine.describe(options.python, quick=options.quick), cases)
    path = Path(options.output) if options.output else new_path(quick=options.quick)
    with _bench(options.python, quick=options.quick) as (bench, peers), contextlib.suppress(KeyboardInterrupt):
        chosen = [peer for peer in peers if _takes_part(peer, options.peers)]
        plans = [plan(case, bench, chosen, options.rounds, options.others_rounds) for case in cases]
        progress = Progress(plans)
        for one in plans:
            _run(one, bench, results, progress)
            results.save(path)
            text.show(results, [one.case.name])
    print(f"\nwritten: {path}")
    if (drawn := picture.draw(results, path.with_suffix(".svg"))) is not None:
        print(f"written: {drawn}")
    return 0


def _run(planned: Plan, bench: Bench, results: Results, progress: Progress) -> None:
    case, gone = planned.case, set[str]()
    if why := case.missing():
        print(f"\n{case.name}: left out, {why}")
        return
    try:
        for number, turns in enumerate(planned.rounds):
            bench.round = number + 1
            found: dict[str, list[Numbers]] = {}
            for turn in turns:
                if turn.peer.name in gone:
                    continue
                progress.begin(f"{case.name}: round {number + 1} of {len(planned.rounds)}, {turn.peer.name}")
                average, others = os.getloadavg()[0], Others()
                numbers = _measure(case, bench, turn.peer, progress)
                results.note(case.name, number, turn.peer.name, load_average=average, others=others.share())
                progress.done(turn)
                if numbers is None:
                    gone.add(turn.peer.name)
                    found.pop(turn.peer.name, None)
                else:
                    found.setdefault(turn.peer.name, []).append(numbers)
            for name, slices in found.items():
                results.add(case.name, number, name, _mean(slices))
    finally:
        bench.end_case()
        progress.clear()


def _mean(slices: Sequence[Numbers]) -> Numbers:
    return {key: sum(numbers[key] for numbers in slices) / len(slices) for key in slices[0]}


def _measure(case: Case, bench: Bench, peer: Peer, progress: Progress) -> Numbers | None:
    """Return the numbers of a peer, None when it cannot take part in the case."""
    for again in (True, False):
        try:
            return case.measure(bench, peer)
        except FailedToStartError as error:
            progress.clear()
            print(f"{case.name}: without {peer.name}: {error}")
            return None
        except LoadError as error:
            progress.clear()
            print(f"{case.name}: {peer.name}{', measured again' if again else ' is left out'}: {error}")
            time.sleep(1)
    return None


def _others() -> float:
    others = Others()
    time.sleep(_LISTEN_SECONDS)
    return others.share()


def _takes_part(peer: Peer, chosen: Sequence[str]) -> bool:
    return not peer.missing() and (not chosen or peer.name in chosen)


@contextlib.contextmanager
def _bench(python: str, *, quick: bool) -> Iterator[tuple[Bench, Sequence[Peer]]]:
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="meshplane-bench-")))
        ports = stack.enter_context(backends(folder))
        control = stack.enter_context(edge.control(folder, ports))
        bench = Bench(folder, ports, quick=quick)
        stack.callback(bench.end_case)
        ours = [edge.Edge(engine, control, python) for engine in edge.engines()]
        ours.append(edge.Edge("wire", control, python, interpreted=True))
        yield bench, [Envoy(), *ours, Nghttpx(), Haproxy(), Nginx()]


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    def names(given: str) -> list[str]:
        return [name for name in given.split(",") if name]

    parser = argparse.ArgumentParser(prog="make bench", description="Compare the edge with its peers.")
    parser.add_argument("--quick", action="store_true", help="2 short rounds; the results are not for keeping")
    parser.add_argument("--rounds", type=int, help=f"alternating rounds [{_ROUNDS}, quick {_QUICK_ROUNDS}]")
    parser.add_argument(
        "--others-rounds",
        type=int,
        help="in how many of them those take part that only show where the field is: nghttpx, HAProxy, nginx, edge-aio "
        f"[{_OTHERS_ROUNDS}, quick {_QUICK_OTHERS_ROUNDS}]",
    )
    parser.add_argument("--cases", type=names, default=[], metavar="NAME,...", help="only these (--list names them)")
    parser.add_argument(
        "--peers", type=names, default=[], metavar="NAME,...", help="only these, such as envoy,edge-aio"
    )
    parser.add_argument(
        "--python",
        metavar="FILE",
        default=sys.executable,
        help="the Python that the edge runs on, of the same version as this one [this one]: what its build gives",
    )
    parser.add_argument("--output", metavar="FILE", help="where the results go [benchmarks/results/DATE.json]")
    parser.add_argument("--list", action="store_true", help="name the cases")
    options = parser.parse_args(arguments)
    if options.rounds is None:
        options.rounds = _QUICK_ROUNDS if options.quick else _ROUNDS
    if options.others_rounds is None:
        options.others_rounds = _QUICK_OTHERS_ROUNDS if options.quick else _OTHERS_ROUNDS
    known = {case.name for case in CASES}
    if unknown := [name for name in options.cases if name not in known]:
        parser.error(f"no such case: {', '.join(unknown)} (--list names them)")
    return options


def _stop(_number: int, _frame: FrameType | None) -> None:
    raise SystemExit(1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
