# SPDX-License-Identifier: Apache-2.0
"""A picture beside the page for each part that was sampled each second."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from .figures import Results

POINTS = 240


def thinned(rows: list[list[float]]) -> list[list[float]]:
    """Give at most so many rows, evenly, with the last one."""
    step = -(-len(rows) // POINTS) or 1
    return rows[:-1:step] + rows[-1:]


def rates(rows: list[list[float]], column: int) -> list[tuple[float, float]]:
    """Give how fast a count grows, a second; a part that restarts counts anew."""
    return [
        (after[0], max(0.0, after[column] - before[column]) / (after[0] - before[0]))
        for before, after in pairwise(rows)
    ]


def save_plots(page: Path, results: Results) -> None:
    import matplotlib as mpl  # noqa: PLC0415 - only drawing needs it

    mpl.use("Agg")
    mpl.rcParams["svg.hashsalt"] = "scale"  # the same picture is the same file
    from matplotlib import pyplot as plt  # noqa: PLC0415

    for name, result in results.items():
        if rows := result["found"].get("samples"):
            path = page.with_name(f"{page.stem}-{name}.svg")
            _draw(plt, path, thinned(rows), result["found"].get("marks", []))


def _draw(
    pyplot: Any, path: Path, rows: list[list[float]], marks: list[tuple[float, str]]
) -> None:
    figure, (speed, memory) = pyplot.subplots(
        2, 1, figsize=(9, 5), sharex=True, layout="constrained"
    )
    events = rates(rows, 1)
    besides = [
        (at, max(0.0, sent - stored))
        for (at, sent), (_, stored) in zip(rates(rows, 2), events, strict=True)
    ]
    speed.plot(*zip(*events, strict=True), label="events stored")
    speed.plot(*zip(*besides, strict=True), label="other messages to NATS")
    speed.set_ylabel("a second")
    seconds, _, _, nats, sidecar = zip(*rows, strict=True)
    memory.plot(seconds, nats, label="nats-server")
    memory.plot(seconds, sidecar, label="sidecar of hermes-server")
    memory.set_ylabel("MB")
    memory.set_xlabel("seconds")
    for axes in (speed, memory):
        axes.set_ylim(bottom=0)
        axes.legend(fontsize=7, loc="center left")
        for at, _ in marks:
            axes.axvline(at, color="grey", linewidth=0.6, linestyle=":")
    for at, name in marks:
        speed.annotate(
            *(name, (at, 1)),
            xycoords=("data", "axes fraction"),
            rotation=90,
            fontsize=6,
            va="top",
            ha="right",
        )
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
