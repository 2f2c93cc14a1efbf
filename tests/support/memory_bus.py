# SPDX-License-Identifier: Apache-2.0
"""A bus in memory with exactly DESIGN.md's meaning, which can be broken in one way.

It tries the models of hermes-server and hermes-client, and the invariants that judge.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from simulation.claims import Stored
from simulation.events import event_class
from simulation.history import FIRST, NO_STREAM, Told

if TYPE_CHECKING:
    import asyncio
    import random
    from collections.abc import Callable, Iterator

    from simulation.history import History

UNKNOWN = "It is not known whether the event was stored: no answer"
NOT_STORED = "Event not stored: full"
FOREIGN = "Event not stored: another producer wrote"


class BusError(Exception):
    """As the plugins' NatsSidecarError."""


class MemoryBus:
    """The stream, and how often something fails."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sleep: Callable[[float], None],
        rng: random.Random,
        history: History,
        broken: str = "",
    ) -> None:
        self.loop = loop
        self.sleep = sleep
        self.rng = rng
        self.history = history
        self.broken = broken
        self.fault_chance = 0.0
        self.stored: list[Stored] = []  # ever
        self.epoch = 0
        self.first = 1000
        self.standing: list[Stored] = []
        self.held: tuple[str, Any, bytes] | None = None  # when broken: reorders
        history.note_ends(0, self.first, self.last)

    @property
    def last(self) -> int:
        return self.first + len(self.standing) - 1

    def fails(self) -> bool:
        return self.rng.random() < self.fault_chance

    def is_broken(self, how: str, chance: float = 0.1) -> bool:
        return self.broken == how and self.rng.random() < chance

    def append(self, key: str, category: str, body: bytes) -> int:
        now = self.loop.time()
        message = Stored(self.epoch, self.last + 1, category, key, body, now)
        self.stored.append(message)
        self.standing.append(message)
        self.history.note_ends(self.epoch, self.first, self.last)
        return self.last

    def append_if(self, last: int, key: str, category: str, body: bytes) -> None:
        """Let a late copy land, if nothing has taken its place."""
        if self.last == last or self.broken == "no precondition":
            self.append(key, category, body)

    def purge(self, count: int) -> None:
        count = min(count, len(self.standing))
        self.first += count
        del self.standing[:count]
        self.history.note_ends(self.epoch, self.first, self.last)

    def make_anew(self) -> None:
        self.history.note_ends(self.epoch, 0, NO_STREAM)
        self.epoch += 1
        self.first = 1000 if self.broken == "offsets again" else self.last + 500
        self.standing = []
        self.history.note_ends(self.epoch, self.first, self.last)

    def at(self, offset: int) -> Stored | None:
        place = offset - self.first
        return self.standing[place] if 0 <= place < len(self.standing) else None

    def post(self, key: str, body: bytes) -> tuple[Told, int | None]:
        """Append what a person posts with `If-Match: *`."""
        self.sleep(0.002)
        if self.fails():
            return Told.NOT_STORED, None
        event = event_class().from_json(body.decode())
        return Told.STORED, self.append(key, event.evcategory, body)


class _Plugin:
    def __init__(self, bus: MemoryBus) -> None:
        self.supervisor = bus

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, kind: object, *_: object) -> bool:
        self.close(kind is None)
        return kind is None

    def open(self) -> None:
        self.supervisor.sleep(0.001)
        if self.supervisor.fails():
            self.supervisor.sleep(10.0)
            raise BusError("No message bus")

    def close(self, went_through: bool) -> None:
        """End the pass."""


class Producer(_Plugin):
    """What the producer plugin promises."""

    _lives = 0

    def __init__(self, bus: MemoryBus) -> None:
        super().__init__(bus)
        Producer._lives += 1
        self._name = f"life{Producer._lives}"
        self._attempt = 0
        self._number = 0
        self._last = 0
        self._pass: int | None = None  # after which offset it began
        self._is_first = True  # until a pass goes through
        self._tried: set[Any] = set()  # objects, in the first pass
        self._has_removed = False
        self._doubts: dict[str, tuple[Any, bytes]] = {}
        self._seen: dict[Any, bytes] = {}  # stored, and Hermes does not know
        self._http = self  # where HermesServer looks for keys

    def store(self, _body: bytes, _headers: dict[str, str]) -> None:
        """Be where a request would be made."""

    def open(self) -> None:
        super().open()
        self._attempt += 1
        if not self._doubts:
            self._last = self.supervisor.last

    def close(self, went_through: bool) -> None:
        if went_through:
            self._is_first, self._pass = False, None
        if went_through and self.supervisor.broken != "remembers for ever":
            self._seen.clear()  # also after an initsync, which lacks them

    def send(self, event: Any) -> None:
        self._send(event)

    def _send(self, event: Any) -> int | None:
        bus = self.supervisor
        body = event.to_json().encode()
        each = (event.objtype, event.objpkey)
        self._number += 1
        if event.evcategory == "base":
            self._begin_pass(event)
        start = self._last if self._pass is None else self._pass
        key = f"{self._name}-{start}-{self._attempt}-{self._number}"
        self._http.store(body, {"Idempotency-Key": key})
        bus.sleep(0.001)
        if self._is_known(event, each, body) or self._is_repeated(event, each, body):
            return None
        if bus.fails():
            self._fail(key, event, body)
        if bus.last != self._last:
            self._learn()
            if self._is_known(event, each, body) or self._is_repeated(
                event, each, body
            ):
                return None
        if bus.broken != "remembers for ever":
            self._seen.pop(each, None)
        self._doubts.clear()
        self._last = self._append(key, event, body)
        bus.sleep(0.001)  # may be killed before the answer comes
        return self._last

    def _append(self, key: str, event: Any, body: bytes) -> int:
        bus = self.supervisor
        category = event.evcategory
        if bus.is_broken("drops"):
            return bus.last
        if bus.is_broken("reorders") and bus.held is None:
            bus.held = (key, category, body)
            return bus.last
        offset = bus.append(key, category, body)
        if bus.held is not None:
            bus.append(*bus.held)
            bus.held = None
            return bus.last
        if bus.is_broken("doubles"):
            return bus.append(key, category, body)
        if bus.is_broken("doubles under another key"):
            return bus.append(f"{key}-again", category, body)
        if bus.is_broken("says not stored"):
            raise BusError(NOT_STORED)
        return offset

    def _is_known(self, event: Any, each: Any, body: bytes) -> bool:
        may_be = event.evcategory == "base" and event.eventtype != "dataschema"
        if not may_be or self._seen.get(each) != body:
            return False
        if self.supervisor.broken != "remembers for ever":
            del self._seen[each]
        return self.supervisor.broken != "recognises nothing"

    def _begin_pass(self, event: Any) -> None:
        """Go on with the pass of a process that was killed, in all that is first."""
        if event.eventtype == "dataschema":
            self._is_first = False
        if self._pass is None and self._is_first:
            self._pass = self._start_of(self._newest_base())
        if self._pass is None or self.supervisor.broken == "begins a pass of its own":
            self._pass = self._last

    def _newest_base(self) -> Stored | None:
        messages = reversed(self.supervisor.standing)
        return next((each for each in messages if each.category == "base"), None)

    @staticmethod
    def _start_of(message: Stored | None) -> int | None:
        start = message.key.split("-")[1:2] if message else []
        return int(start[0]) if start and message and "life" in message.key else None

    def _is_repeated(self, event: Any, each: Any, body: bytes) -> bool:
        """Tell whether a process that was killed has stored it: DESIGN's rule."""
        bus = self.supervisor
        may_be = event.evcategory == "base" and self._is_first
        if not may_be or bus.last != self._last or bus.broken == "repeats the dead":
            return False
        is_known = self._stands(event, each, body)
        if not is_known:
            if any(_object_of(message) == each for message in bus.standing):
                self._tried.add(each)
            self._has_removed = self._has_removed or event.eventtype == "removed"
        return is_known

    def _stands(self, event: Any, each: Any, body: bytes) -> bool:
        bus = self.supervisor
        if each in self._tried or (self._has_removed and event.eventtype != "removed"):
            return False
        removers: set[str] = set()
        for message in reversed(bus.standing):
            said = event_class().from_json(message.body.decode())
            attempt, start = message.key.rpartition("-")[0], self._start_of(message)
            if said.eventtype in ("init-stop", "dataschema"):
                return False
            if said.evcategory != "base":
                continue
            if (said.objtype, said.objpkey) == each:
                is_of_pass = start is not None and start >= (self._pass or 0)
                is_of_pass = is_of_pass or bus.broken == "knows any pass"
                is_same = message.body == body or bus.broken == "compares no bytes"
                is_whole = event.eventtype == "removed" or removers <= {attempt}
                is_own = attempt.startswith(f"{self._name}-")
                if is_same and is_of_pass and is_whole and not is_own:
                    return True
                if bus.broken != "knows older ones":
                    return False
            elif said.eventtype == "removed":
                removers.add(attempt)
        return False

    def _fail(self, key: str, event: Any, body: bytes) -> None:
        bus = self.supervisor
        self.supervisor.sleep(30.0)
        draw = bus.rng.random()
        if draw < 0.3 and not self._doubts:
            raise BusError(NOT_STORED)
        copy = (self._last, key, event.evcategory, body)
        if draw < 0.6:
            bus.append_if(*copy)
        elif draw < 0.9:
            bus.loop.call_later(bus.rng.uniform(1, 200), bus.append_if, *copy)
        self._doubts[key] = (event, body)
        if bus.broken != "remembers for ever":
            self._seen.pop((event.objtype, event.objpkey), None)
        raise BusError(UNKNOWN)

    def _learn(self) -> None:
        bus = self.supervisor
        holder = bus.at(self._last + 1)
        known = self._doubts.get(holder.key) if holder else None
        self._doubts.clear()
        if known is not None:
            event, body = known
            self._last += 1
            if event.evcategory == "base" and event.eventtype != "dataschema":
                self._seen[event.objtype, event.objpkey] = body
        if bus.last != self._last:
            if bus.broken != "no fence":
                raise BusError(FOREIGN)
            self._last = bus.last


def _object_of(message: Stored) -> Any:
    event = event_class().from_json(message.body.decode())
    return event.evcategory == "base" and (event.objtype, event.objpkey)


class Consumer(_Plugin):
    """What the consumer plugin promises."""

    def __init__(self, bus: MemoryBus) -> None:
        super().__init__(bus)
        self._offset = FIRST
        self._timeout_seconds = 1.0

    def seekToBeginning(self) -> None:  # noqa: N802 - Hermes' name
        self._offset = FIRST

    def seek(self, offset: int) -> None:
        self.supervisor.sleep(0.001)
        if not self.supervisor.first <= offset <= self.supervisor.last + 1:
            self.supervisor.sleep(5.0)
            if not self.supervisor.first <= offset <= self.supervisor.last + 1:
                raise IndexError("Offset not in the stream")
        if self.supervisor.is_broken("refuses falsely", 0.02):
            self.supervisor.sleep(5.0)
            raise IndexError("Offset not in the stream")
        self._offset = offset

    def setTimeout(self, timeout_ms: int) -> None:  # noqa: N802 - Hermes' name
        self._timeout_seconds = timeout_ms / 1000

    def findNextEventOfCategory(self, category: str) -> Any:  # noqa: N802 - Hermes' name
        bus = self.supervisor
        if bus.broken == "finds nothing":
            return None
        for event in self._events():
            if event.evcategory == category:
                if bus.is_broken("finds the second", 0.5):
                    continue
                return event
        return None

    def __iter__(self) -> Iterator[Any]:
        return self._events()

    def _events(self) -> Iterator[Any]:
        bus = self.supervisor
        ends_at = bus.loop.time() + self._timeout_seconds
        while True:
            if bus.fails():
                bus.sleep(5.0)
                raise BusError("No message bus")
            if self._offset != FIRST and self._offset < bus.first:
                bus.sleep(5.0)
                raise IndexError("Offset not in the stream")
            offset = bus.first if self._offset == FIRST else self._offset
            message = bus.at(offset)
            if bus.is_broken("ends falsely", 0.02):
                return
            if message is None:
                if bus.loop.time() >= ends_at:
                    return
                bus.sleep(min(2.0, ends_at - bus.loop.time()))
                continue
            if bus.is_broken("skips", 0.02):
                offset += 1
                message = bus.at(offset) or message
            if bus.is_broken("repeats", 0.02):
                offset -= 1
                message = bus.at(offset) or message
            event = event_class().from_json(message.body.decode())
            event.offset = message.offset
            if bus.is_broken("alters", 0.02):
                event.objattrs = {"altered": True}
            self._offset = message.offset + 1
            yield event
            ends_at = bus.loop.time() + self._timeout_seconds
