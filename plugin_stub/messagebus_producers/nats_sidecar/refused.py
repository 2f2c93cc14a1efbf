# SPDX-License-Identifier: GPL-3.0-or-later
"""An event without which an initsync is not whole, and that was refused for good.

Hermes begins the whole sequence again each minute. All before the event would be
stored each time, until somebody acts, so it is asked for first.
"""

from __future__ import annotations

from collections.abc import Callable

from .doubts import Sent
from .sidecar_http import Answer

BLIND_SECONDS = 3600.0
"""How long nothing is tried where NATS refused again what the sidecar would send."""

MAY_BE_TAKEN = (409, 410, 412)
"""Its size and content were looked at, and its offset is taken or unknown."""


class Refused:
    """What was refused in an initsync that is still to be made; nothing at first."""

    def __init__(self) -> None:
        self._sent: Sent | None = None
        self._after, self._text, self._blind_until = 0, "", 0.0

    def remember(self, sent: Sent, last: int, text: str, now: float) -> None:
        """Remember an event that was refused as the one after `last`."""
        if self._sent is not None and self._sent.body == sent.body:
            self._blind_until = now + BLIND_SECONDS
        self._sent, self._after, self._text = sent, last - 1, text

    def text(self, post: Callable[[Sent, int], Answer], now: float) -> str:
        """Say why it is refused still; nothing if it may be taken now.

        It is posted after an offset whose next one its own initsync took, so it cannot
        be stored. Where it is refused, /health goes on to name it.
        """
        if self._sent is None:
            return ""
        is_refused = post(self._sent, self._after).status not in MAY_BE_TAKEN
        return self._text if is_refused or now < self._blind_until else ""
