# SPDX-License-Identifier: Apache-2.0
"""What is wrong with the modelled cluster at the moment, as its servers ask for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from .messages import NO_ACCOUNT_RESOURCES, NO_RESOURCES, Refusal

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from .forged import Forger, Responder
    from .messages import Publish
    from .server import Server
    from .store import Store

    End = Callable[[], None]
    Begun = tuple[float, End] | None
    """How long it lasts and what ends it; None if it is over at once."""

_SLIP_CHANCE: Final = 0.5


class Slow(NamedTuple):
    """How slow each connection of a client is, in that direction that carries most."""

    bytes_per_second: float
    latency_seconds: float

    def parts(self, size_bytes: int) -> list[int]:
        """Split so many bytes into what comes in one piece: a part of a second."""
        part = max(1, int(self.bytes_per_second * PART_SECONDS))
        whole, rest = divmod(size_bytes, part)
        return [part] * whole + [rest] * (rest > 0)


PART_SECONDS: Final = 0.25


class Trouble:
    """What is wrong at the moment, as the servers ask for it."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self.full: Refusal | None = None
        self.foreign: tuple[str, Refusal | None, int] | None = None
        self.is_denied = False
        self.account_full = False
        self.disk_full: list[Server] = []
        self.full_after: list[Server] = []
        self.writes_fail = False
        self.followers_answer = False
        self.mirror: Store | None = None
        self.mirror_name = ""
        self.catch_up: Callable[[], None] = lambda: None  # before it answers
        self.slow: Slow | None = None
        self.late_pages_seconds = 0.0
        self.responder: Responder | None = None
        self.forger: Forger | None = None
        self.on_batch: Callable[[Publish], None] | None = None
        self.running: list[End] = []
        self.slowing: list[End] = []  # those after which all can be stored as before

    def put(self, name: str, what: object) -> End:
        """Let something be there until it is ended, or replaced by another."""
        setattr(self, name, what)

        def end() -> None:
            if getattr(self, name) is what:
                setattr(self, name, None)

        return end

    def disk_refusal(self, server: Server) -> Refusal | None:
        """Give why there is no room for a message, before it is proposed."""
        if server in self.disk_full:
            return NO_RESOURCES
        return NO_ACCOUNT_RESOURCES if self.account_full else None

    def slips(self) -> bool:
        """Tell whether a follower answers STREAM.INFO this time."""
        return self.followers_answer and self._rng.random() < _SLIP_CHANCE

    def denied_seconds(self) -> float | None:
        """Give how late the refusal of a publish comes; None if it is permitted."""
        return self._rng.uniform(0.0, 1.0) if self.is_denied else None
