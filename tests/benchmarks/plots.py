# SPDX-License-Identifier: Apache-2.0
"""Two pictures beside the page: latency by variant, and growth."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .growth import READING
from .results import kilobytes
from .scale import SIZES
from .variants import NAMES

if TYPE_CHECKING:
    from pathlib import Path

    from .results import Results

_DOTS = 110


def save_plots(page: Path, results: Results) -> str:
    """Draw what was measured; give a sentence where matplotlib is missing."""
    try:
        import matplotlib as mpl  # noqa: PLC0415 - only drawing needs it
    except ImportError:
        return "plots: matplotlib is not installed."
    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    _latency(plt, results, page.with_name(f"{page.stem}-latency.png"))
    if results.growth or results.publishes:
        _growth(plt, results, page.with_name(f"{page.stem}-growth.png"))
    return ""


def _latency(pyplot: Any, results: Results, path: Path) -> None:
    """Bars to the median, a line from there to the 99th percentile."""
    figure, axes = pyplot.subplots(
        len(results.latencies),
        len(SIZES),
        figsize=(11, 2.6 * len(results.latencies)),
        squeeze=False,
        layout="constrained",
    )
    for row, (environment, by_size) in zip(
        axes, results.latencies.items(), strict=True
    ):
        for axis, (size, by_variant) in zip(row, by_size.items(), strict=True):
            found = [by_variant[name] for name in NAMES]
            medians = [each.p50 for each in found]
            tails = [max(0, each.p99 - each.p50) for each in found]
            colours = ["#1f77b4"] * 2 + ["#999999"] * (len(NAMES) - 2)
            axis.barh(NAMES, medians, color=colours)
            axis.errorbar(
                medians,
                NAMES,
                xerr=[[0] * len(tails), tails],
                fmt="none",
                ecolor="black",
                elinewidth=0.8,
                capsize=2,
            )
            axis.invert_yaxis()
            axis.set_title(f"{kilobytes(size)}, {environment}", fontsize=8)
            axis.tick_params(labelsize=7)
            axis.set_xlabel("microseconds, p50 with p99", fontsize=7)
            if axis is not row[0]:
                axis.set_yticklabels([])
    figure.savefig(path, dpi=_DOTS)
    pyplot.close(figure)


def _growth(pyplot: Any, results: Results, path: Path) -> None:
    figure, (left, right) = pyplot.subplots(
        1, 2, figsize=(11, 3.6), layout="constrained"
    )
    if results.growth:
        latencies = results.growth.latencies
        for reading in READING:
            medians = [by_reading[reading].p50 for by_reading in latencies.values()]
            left.plot(list(latencies), medians, marker="o", label=reading)
        left.set_xscale("log")
        left.set_ylim(bottom=0)
        left.legend(fontsize=7)
    left.set_xlabel("events in the stream")
    left.set_ylabel("_send of 0.5 KB, p50, microseconds")
    if results.publishes:
        right.plot(*zip(*results.publishes, strict=True), marker=".")
        right.set_ylim(0, 1.25 * max(mb for _, mb in results.publishes))
    right.set_xlabel("publishes through the sidecar")
    right.set_ylabel("sidecar's memory, MB")
    figure.savefig(path, dpi=_DOTS)
    pyplot.close(figure)
