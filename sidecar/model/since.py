# SPDX-License-Identifier: Apache-2.0
"""Since when a check does not pass, as whoever looks regularly saw it. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sidecar.model.health import Check


class Since:
    """Remembers, of each check that does not pass, when its status became this one.

    A check that passes is forgotten, and so is one that is not assessed any more.
    """

    def __init__(self) -> None:
        self._began: dict[str, tuple[str, float]] = {}

    def note(self, checks: Iterable[Check], now: float) -> dict[str, float]:
        """Take what is so now; give the time of each that does not pass, by name."""
        began: dict[str, tuple[str, float]] = {}
        for check in checks:
            if check.status != "pass":
                status, at = self._began.get(check.name, (check.status, now))
                began[check.name] = check.status, at if status == check.status else now
        self._began = began
        return {name: at for name, (_, at) in began.items()}
