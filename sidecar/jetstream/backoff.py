# SPDX-License-Identifier: Apache-2.0
"""How long to pause before something is tried again: no loop is without it. Pure."""

from __future__ import annotations


class Backoff:
    """Pauses that grow: none at first, then twice as long each time."""

    def __init__(self, first_seconds: float, longest_seconds: float) -> None:
        self._first_seconds = first_seconds
        self._longest_seconds = longest_seconds
        self._seconds = 0.0

    def next_seconds(self) -> float:
        """Give the pause before the next try."""
        seconds = self._seconds
        grown = max(self._first_seconds, seconds * 2)
        self._seconds = min(grown, self._longest_seconds)
        return seconds

    def reset(self) -> None:
        """Begin anew: what was tried went well."""
        self._seconds = 0.0
