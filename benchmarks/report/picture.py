"""The results as a picture: for each case, everybody's headline number over Envoy's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.cases.case import Metric
from benchmarks.report.results import REFERENCE, Results

_COLOURS = {
    "edge-wire": "#0b6e4f",
    "edge-wire-interpreted": "#3f9274",
    "edge-aio": "#7ab8a0",
    "envoy": "#8a3ffc",
    "haproxy": "#b8b8b8",
    "nghttpx": "#8c8c8c",
    "nginx": "#d4d4d4",
}
_OTHER = "#4c78a8"
# Bars beyond are cut, and say how long they would be.
_LONGEST = 3.0
_BAR_INCHES = 0.22


def draw(results: Results, path: Path) -> Path | None:
    """Write the picture and return where it is; None where matplotlib is not installed."""
    try:
        from matplotlib import pyplot as plt
    except ImportError:
        print("no picture: matplotlib is not installed (pip install matplotlib)")
        return None
    charts = [
        (case.name, case.title, metric)
        for case in results.cases
        for metric in case.metrics
        if metric.headline and not metric.absolute and results.rounds(case.name)
    ]
    charts = [chart for chart in charts if results.value(chart[0], REFERENCE, chart[2])]
    if not charts:
        return None
    bars = [len(results.peers(name)) for name, _, _ in charts]
    height = sum(bars) * _BAR_INCHES + len(charts) * 0.55
    figure, axes = plt.subplots(
        len(charts), 1, figsize=(9, height), squeeze=False, gridspec_kw={"height_ratios": bars}, layout="constrained"
    )
    for (name, title, metric), (axis,) in zip(charts, axes, strict=True):
        _chart(axis, results, name, title, metric)
    figure.suptitle("Over Envoy, median and range of the rounds; dashed: the goal", fontsize=9)
    plt.rcParams["svg.hashsalt"] = "meshplane"  # the same results make the same file
    plt.rcParams["svg.fonttype"] = "none"  # text as text: a fifth of the size
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
    return path


def _chart(axis: Any, results: Results, case: str, title: str, metric: Metric) -> None:
    peers = results.peers(case)
    for place, peer in enumerate(peers):
        spread = results.ratio(case, peer, metric)
        if spread is None:
            continue
        cut = min(spread.median, _LONGEST)
        axis.barh(place, cut, color=_COLOURS.get(peer, _OTHER), height=0.8)
        if spread.high <= _LONGEST:
            axis.plot((spread.low, spread.high), (place, place), color="black", linewidth=1)
        axis.text(min(max(cut, spread.high), _LONGEST) + 0.03, place, f"{spread.median:.2f}", va="center", fontsize=7)
    axis.axvline(1, color=_COLOURS[REFERENCE], linewidth=0.8)
    if metric.goal is not None:
        axis.axvline(metric.goal, color="black", linewidth=0.8, linestyle="--")
    axis.set_yticks(range(len(peers)), peers, fontsize=7)
    axis.invert_yaxis()
    axis.set_xlim(0, _LONGEST + 0.3)
    axis.tick_params(axis="x", labelsize=6)
    better = "more is better" if metric.more_is_better else "less is better"
    axis.set_title(f"{title}: {metric.title} ({better})", fontsize=8, loc="left")
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
