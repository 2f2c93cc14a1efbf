# SPDX-License-Identifier: Apache-2.0
"""From a run that violates a guarantee to the smallest one that still does."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .scenario import Scenario


def shrink(
    scenario: Scenario, fails: Callable[[Scenario], bool], most_runs: int = 400
) -> Scenario:
    """Take out faults, changes and actors as long as `fails` stays true.

    The order is that of delta debugging (Zeller): halves first, then single ones.
    """
    runs = 0
    progress = True
    while progress:
        progress = False
        for smaller in _smaller(scenario):
            if runs >= most_runs:
                return scenario
            runs += 1
            if fails(smaller):
                scenario, progress = smaller, True
                break
    return scenario


def _smaller(scenario: Scenario) -> Iterator[Scenario]:
    faults = scenario.faults
    size = len(faults) // 2
    while size:
        for start in range(0, len(faults), size):
            kept = faults[:start] + faults[start + size :]
            yield replace(scenario, faults=kept)
        size //= 2
    for changes in (scenario.changes // 4, scenario.changes // 2, scenario.changes - 5):
        if 0 < changes < scenario.changes:
            yield replace(scenario, changes=changes)
    if scenario.clients > 1:
        yield replace(scenario, clients=1)
    if scenario.standby:
        yield replace(scenario, standby=False)
    if scenario.curl:
        yield replace(scenario, curl=False)
