# SPDX-License-Identifier: Apache-2.0
"""What the charts of the status page are drawn from."""

from __future__ import annotations

import pytest

from sidecar.http.charts import BOTTOM, LEFT, RIGHT, TOP, chart, figure, round_above


@pytest.mark.parametrize(
    ("value", "top"),
    [
        *[(0.0, 1), (0.00012, 0.0002), (0.3, 0.5), (1.0, 1), (1.01, 2), (2.5, 5)],
        *[(7.0, 10), (10.0, 10), (66.0, 100), (199.0, 200), (1_000_001.0, 2_000_000)],
    ],
)
def test_an_axis_ends_at_a_round_figure(value: float, top: float) -> None:
    assert round_above(value) == top


@pytest.mark.parametrize(
    ("values", "runs", "dots"),
    [
        ([0, 5, 10], [f"{LEFT}.0,{BOTTOM}.0 179.0,73.0 {RIGHT}.0,{TOP}.0"], []),
        ([None, None, 10], [], [(f"{RIGHT}.0", f"{TOP}.0")]),
        ([10, None, 10], [], [("48.0", "22.0"), ("310.0", "22.0")]),
        ([None, None, None], [], []),
    ],
)
def test_a_line_has_a_gap_where_nothing_is_known(
    values: list[float | None], runs: list[str], dots: list[tuple[str, str]]
) -> None:
    (line,) = chart("T", "ms", "Words.", {"p50": values}).lines
    assert (line.runs, line.dots) == (runs, dots)


def test_the_axes_are_marked_from_0_and_from_an_hour_ago() -> None:
    drawn = chart("T", "ms", "Words.", {"p50": [1.5] * 60, "p99": [None] * 60})
    assert drawn.ticks == [(BOTTOM, "0"), ((TOP + BOTTOM) / 2, "1"), (TOP, "2")]
    assert drawn.times == [
        *[(LEFT, "60 min ago"), ((LEFT + RIGHT) / 2, "30 min ago"), (RIGHT, "now")]
    ]


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (0.98512, "0.985"), (12.345, "12.3"), (1234.5, "1,235")],
)
def test_figures_are_for_people(value: float, text: str) -> None:
    assert figure(value) == text
