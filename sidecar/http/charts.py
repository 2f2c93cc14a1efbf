# SPDX-License-Identifier: Apache-2.0
"""Small charts of the last hour: from a value a minute to what SVG draws. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from math import ceil, floor, log10
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

WIDTH: Final = 320
HEIGHT: Final = 150
LEFT, RIGHT, TOP, BOTTOM = 48, 310, 22, 124
"""Where the axes are, in the units of the viewBox; about a pixel each."""

_STEPS = (1, 2, 5, 10)
_TIMES = ("60 min ago", "30 min ago", "now")


class Tick(NamedTuple):
    """A place on an axis and what stands there."""

    at: float
    text: str


class Line(NamedTuple):
    """A name, the runs of minutes with a value, and minutes that stand alone."""

    name: str
    runs: list[str]
    dots: list[tuple[str, str]]


@dataclass(frozen=True)
class Chart:
    """What the template draws; `summary` says it in words."""

    title: str
    unit: str
    summary: str
    ticks: list[Tick]
    times: list[Tick]
    lines: list[Line]


def chart(
    title: str,
    unit: str,
    summary: str,
    values: Mapping[str, Sequence[float | None]],
) -> Chart:
    """Draw lines over one axis from 0 on; the newest value, of this minute, is last."""
    known = [value for each in values.values() for value in each if value is not None]
    top = round_above(max(known, default=0.0))
    return Chart(
        title,
        unit,
        summary,
        ticks=[Tick(_y(top * part, top), f"{top * part:g}") for part in (0, 0.5, 1)],
        times=[Tick(_x(at, 3), text) for at, text in enumerate(_TIMES)],
        lines=[_line(name, each, top) for name, each in values.items()],
    )


def round_above(value: float) -> float:
    """Give the next of 1, 2, 5, 10, 20 ... and of their parts, where an axis ends."""
    if value <= 0:
        return 1.0
    power = floor(log10(value))
    step = next(each for each in _STEPS if value <= each * 10.0**power * (1 + 1e-9))
    return float(f"{step * 10.0**power:.6g}")


def _line(name: str, values: Sequence[float | None], top: float) -> Line:
    runs, dots = [], []
    for is_known, group in groupby(enumerate(values), lambda each: each[1] is not None):
        points = [
            (f"{_x(at, len(values)):.1f}", f"{_y(value or 0.0, top):.1f}")
            for at, value in group
        ]
        if is_known and len(points) > 1:
            runs.append(" ".join(f"{x},{y}" for x, y in points))
        elif is_known:
            dots += points
    return Line(name, runs, dots)


def _x(at: int, count: int) -> float:
    return LEFT + (RIGHT - LEFT) * at / max(1, count - 1)


def _y(value: float, top: float) -> float:
    return BOTTOM - (BOTTOM - TOP) * value / top


def figure(value: float) -> str:
    """Write a figure for people, in three digits, a large one whole."""
    return f"{ceil(value):,}" if value >= 1000 else f"{value:.3g}"  # noqa: PLR2004
