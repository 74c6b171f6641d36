"""The results as tables: on the terminal, and in Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.table import Table

from benchmarks.cases.case import Case, Metric
from benchmarks.report.results import REFERENCE, Results, Spread

# Of lines that go to a file.
_WIDTH = 160

_HEAD = ("", "", "median (range)", "over Envoy (range)", "goal", "")


def show(results: Results, names: Sequence[str]) -> None:
    """Print the tables of some cases."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=_WIDTH)
    for case in results.cases:
        if case.name not in names or not results.rounds(case.name):
            continue
        table = Table(title=f"{case.name}: {case.title}", title_justify="left", box=None, padding=(0, 2, 0, 0))
        for head in _HEAD:
            table.add_column(head, no_wrap=True)
        for row in _rows(results, case):
            table.add_row(*row)
        console.print()
        console.print(table)
        if (others := results.others(case.name)) is not None:
            console.print(
                f"other programs took {others.median:.0%} of the machine meanwhile, at most {others.high:.0%}"
            )


def markdown(results: Results) -> str:
    """Return all tables, and what the run was made with."""
    parts = [_about(results)]
    for case in results.cases:
        lines = [f"**{case.name}**: {case.title}\n", "| " + " | ".join(_HEAD) + " |", "|---" * len(_HEAD) + "|"]
        lines += ["| " + " | ".join(row) + " |" for row in _rows(results, case)]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def conditions(results: Results) -> str:
    """Return one table in Markdown: how the machine was during each case."""
    lines = ["| case | load average before a measurement | processors taken by others |", "|---|---|---|"]
    for case in results.cases:
        load, others = results.load_average(case.name), results.others(case.name)
        if load is not None and others is not None:
            taken = f"{others.median:.0%} ({others.low:.0%} to {others.high:.0%})"
            lines.append(f"| {case.name} | {_spread(load, 1)} | {taken} |")
    return "\n".join(lines)


def goals(results: Results) -> str:
    """Return one table in Markdown: every goal, and where the engines stand."""
    engines = sorted({peer for case in results.cases for peer in results.peers(case.name) if peer.startswith("edge-")})
    lines = ["| case | what | goal | " + " | ".join(engines) + " |", "|---" * (3 + len(engines)) + "|"]
    for case in results.cases:
        for metric in case.metrics:
            if metric.goal is not None:
                cells = [_standing(results, case, engine, metric) for engine in engines]
                lines.append("| " + " | ".join((case.name, metric.title, _goal(metric), *cells)) + " |")
    return "\n".join(lines)


def _rows(results: Results, case: Case) -> Iterator[tuple[str, ...]]:
    for metric in case.metrics:
        title = f"{metric.title}, {metric.unit}" if metric.unit else metric.title
        for peer in results.peers(case.name)[: 1 if metric.shared else None]:
            value = results.value(case.name, peer, metric)
            if value is None:
                continue
            ratio = None if peer == REFERENCE else results.ratio(case.name, peer, metric)
            met = results.meets(case.name, peer, metric)
            goal = _goal(metric) if met is not None else ""
            yield (
                title,
                "" if metric.shared else peer,
                _spread(value, metric.digits),
                _spread(ratio, 2),
                goal,
                _word(met),
            )
            title = ""


def _standing(results: Results, case: Case, engine: str, metric: Metric) -> str:
    spread = results.value(case.name, engine, metric) if metric.absolute else results.ratio(case.name, engine, metric)
    met = _word(results.meets(case.name, engine, metric))
    return f"{_spread(spread, 2)} {met}".strip() if spread is not None else ""


def _spread(spread: Spread | None, digits: int) -> str:
    if spread is None:
        return ""
    middle, low, high = (f"{value:,.{digits}f}" for value in (spread.median, spread.low, spread.high))
    return middle if low == high else f"{middle} ({low} to {high})"


def _goal(metric: Metric) -> str:
    if metric.goal is None:
        return ""
    return f"{'>=' if metric.more_is_better else '<='} {metric.goal:g}"


def _word(met: bool | None) -> str:  # noqa: FBT001 - one word for one answer
    return {True: "met", False: "NOT met", None: ""}[met]


def _about(results: Results) -> str:
    about = results.about
    versions = ", ".join(f"{name} {said}" for name, said in about["versions"].items() if said)
    rounds = max((len(results.rounds(case.name)) for case in results.cases), default=0)
    foreign = [spread.median for case in results.cases if (spread := results.others(case.name)) is not None]
    others = f"{min(foreign):.0%} to {max(foreign):.0%}" if foreign else "an unknown part"
    kind = "quick run, not for quoting" if about["quick"] else "full run"
    return (
        f"Measured {about['at']} at commit {about['commit']}{' with changes' if about['changed'] else ''} ({kind}, "
        f"{rounds} rounds) on {about['cores']} cores of {about['processor']}, Linux {about['kernel']}. The edge ran on "
        f"Python {about['python']}. Other programs took {others} of the machine meanwhile (medians of the cases). "
        f"{versions}."
    )
