# SPDX-License-Identifier: Apache-2.0
"""A history and a stream, told line by line, to be judged by the invariants."""

from __future__ import annotations

import random
from collections import Counter
from typing import TYPE_CHECKING, Any

from simulation.claims import Stored
from simulation.events import changes_of, new_event, parsed, schema
from simulation.history import NO_STREAM, History, Outcome, Told
from simulation.invariants import GUARANTEES, End, Facts, check
from simulation.source import Source

if TYPE_CHECKING:
    from collections.abc import Callable

    from simulation.history import Pass, Send

USER = ("Users", 1)
OTHER = ("Users", 2)
ONE: dict[str, Any] = {"state": 1}
TWO: dict[str, Any] = {"state": 2}


class Story:
    """A history and a stream, told line by line; each line takes a second."""

    def __init__(self) -> None:
        self.now = 0.0
        self.history = History(lambda: self.now)
        self.stored: list[Stored] = []
        self.epoch = 0
        self.first = 1
        self.last = 0
        self.lives: dict[str, int] = {}
        self.passes: dict[str, Pass] = {}
        self.forgiven: Counter[str] = Counter()  # by the last names()
        self.source = Source(random.Random(1), lambda: 0.0)  # noqa: S311 - no secret
        self.source.objects = {}
        self.note_ends()

    def tick(self) -> float:
        self.now += 1.0
        return self.now

    def note_ends(self) -> None:
        self.history.note_ends(self.epoch, self.first, self.last)

    # -- Hermes ------------------------------------------------------------------------

    def begin_anew(self, server: str = "a") -> None:
        """Begin a pass of a new process."""
        self.lives[server] = self.lives.get(server, 0) + 1
        self.begin(server)

    def begin(self, server: str = "a", kind: str = "base") -> None:
        """Begin a pass."""
        life = self.lives.setdefault(server, 1)
        begun = self.history.begin_pass(server, life, kind, self.tick())
        begun.opened = self.tick()
        self.passes[server] = begun

    def end(self, server: str = "a", failure: str = "") -> None:
        """End a pass."""
        self.tick()
        error = RuntimeError(failure) if failure else None
        self.history.end_pass(self.passes[server], error)

    def send(
        self,
        told: Told = Told.STORED,
        event: Any = None,
        *,
        server: str = "a",
        stands: bool | None = None,
        key: str = "",
        before: Any = None,
    ) -> Send:
        """Send an event; stored first, unless told otherwise, where it stands."""
        event = event or added(USER, ONE)
        if server not in self.passes:
            self.begin(server)
        begun = self.passes[server]
        body = event.to_json().encode()
        self.tick()
        send = self.history.begin_send(server, begun.life, begun.number, event, body)
        send.before = before
        if key:
            send.keys.append(key)
        if stands if stands is not None else told in (Told.STORED, Told.ACCEPTED):
            self.store(event, key)
        self.tick()
        offset = self.last if told is Told.STORED else None
        self.history.end_send(send, told, offset)
        return send

    def store(self, event: Any, key: str = "") -> int:
        """Let an event stand, whoever sent it."""
        self.tick()
        body = event.to_json().encode()
        self.last += 1
        self.stored.append(
            Stored(self.epoch, self.last, event.evcategory, key, body, self.now)
        )
        self.note_ends()
        return self.last

    def make_anew(self, first: int) -> None:
        """Delete the stream and create another."""
        self.history.note_ends(self.epoch, 0, NO_STREAM)
        self.tick()
        self.epoch += 1
        self.first, self.last = first, first - 1
        self.note_ends()

    def purge(self, first: int) -> None:
        self.tick()
        self.first = first
        self.note_ends()

    def initsync(self, *objects: Any, server: str = "a") -> tuple[int, int]:
        """Send a whole one; give the offsets of its start and stop."""
        self.begin(server, "initsync")
        self.send(event=init("init-start"), server=server)
        start = self.last
        for each, values in objects:
            self.send(event=initsync_added(each, values), server=server)
        self.send(event=init("init-stop"), server=server)
        self.end(server)
        return start, self.last

    # -- Clients -----------------------------------------------------------------------

    def read(
        self, offset: int, position: int | None = None, category: Any = None
    ) -> None:
        """Let a client get what stands at an offset."""
        message = next(each for each in self.stored if each.offset == offset)
        event = parsed(message.body)
        got = new_event(event.evcategory, event.eventtype, None, event.objattrs)
        got.objtype, got.objpkey = event.objtype, event.objpkey
        got.offset = offset
        self.ask(offset if position is None else position, Outcome.EVENT, category, got)

    def ask(
        self,
        position: int,
        outcome: Outcome,
        category: str | None = None,
        event: Any = None,
        *,
        is_seek: bool = False,
        meanwhile: Callable[[], Any] = lambda: None,
    ) -> None:
        self.tick()
        asking = self.history.begin_asking("c", 1, position, category, is_seek=is_seek)
        self.tick()
        meanwhile()
        self.tick()
        self.history.end_asking(asking, outcome, event)

    def names(
        self,
        end: End | None = None,
        restored: frozenset[int] = frozenset(),
        *,
        is_only_slow: bool = False,
    ) -> set[str]:
        facts = Facts(self.stored, restored, is_only_slow=is_only_slow)
        self.forgiven = facts.forgiven
        found = check(self.history, facts, end)
        for each in found:
            assert GUARANTEES[each.name] in each.sentence
        return {each.name for each in found}


def added(each: Any, values: Any) -> Any:
    return new_event("base", "added", each, values)


def modified(each: Any, old: Any, new: Any) -> Any:
    return new_event("base", "modified", each, changes_of(old, new))


def removed(each: Any) -> Any:
    return new_event("base", "removed", each, {})


def initsync_added(each: Any, values: Any) -> Any:
    return new_event("initsync", "added", each, values)


def init(kind: str) -> Any:
    attrs = schema(1) if kind == "init-start" else {}
    return new_event("initsync", kind, None, attrs)
