# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether hermes-server was told to stop. Hermes itself looks only between passes."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Any

GRACE_SECONDS = 10.0
"""How long a pass goes on: most end by then, and nobody is mailed."""


class Stopping:
    """Hears the signals that Hermes takes, before Hermes does."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._told_at: float | None = None
        self._listens = False

    def listen(self) -> None:
        """Listen from now on, if Hermes does."""
        if self._listens or threading.current_thread() is not threading.main_thread():
            return
        for number in (signal.SIGINT, signal.SIGTERM):
            hermes = signal.getsignal(number)
            if callable(hermes) and hermes is not signal.default_int_handler:
                signal.signal(number, partial(self._hear, hermes))
                self._listens = True

    def _hear(self, hermes: Callable[..., Any], number: int, at: FrameType) -> None:
        if self._told_at is None:
            self._told_at = self._now()
        hermes(number, at)

    @property
    def is_due(self) -> bool:
        """Tell whether the pass is to end now."""
        return self._told_at is not None and self._now() - self._told_at > GRACE_SECONDS
