# SPDX-License-Identifier: Apache-2.0
"""A model of a hermes-client (v1.0.9, clients/__init__.py) around the real plugin.

It keeps the next offset in its cache, saved at the end of each loop; begins with the
last complete initsync; then follows. Its target is a dictionary of objects.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from .history import FIRST, Outcome, Scan
from .source import TYPES

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterator

    from .history import History, Object
    from .source import Values

    Record = Callable[..., None]

_REFUSED_TIMES_UNTIL_AN_OPERATOR_COMES: Final = 3
_CALM_SECONDS: Final = 1.0
_ERROR_SECONDS: Final = 0.001
"""Hermes tries again at once; this is its own work."""


@dataclass
class Target:
    """What a client has made of the events, and its cache with it."""

    next_offset: int | None = None
    init_start: int | None = None
    init_stop: int | None = None
    objects: dict[Object, Values] = field(default_factory=dict)
    trashbin: dict[Object, tuple[Values, int]] = field(default_factory=dict)
    destroyed: list[tuple[Object, int, int]] = field(default_factory=list)
    """By a `removed` of what was in the trashbin: the offsets of both."""

    def copy(self) -> Target:
        """Give a copy, as the files of a cache are one."""
        return Target(
            self.next_offset,
            self.init_start,
            self.init_stop,
            dict(self.objects),
            dict(self.trashbin),
            list(self.destroyed),
        )

    @property
    def is_initialized(self) -> bool:
        """Tell whether the initsync was taken whole."""
        return (
            self.next_offset is not None
            and self.init_stop is not None
            and self.next_offset >= self.init_stop
        )

    def apply(self, event: Any) -> None:
        """Do what an event says."""
        each: Object = (event.objtype, event.objpkey)
        if event.objtype not in TYPES:
            return
        if event.eventtype == "added":
            attrs = {k: v for k, v in event.objattrs.items() if k != "key"}
            if self.trashbin.pop(each, None) is not None:
                self.objects[each] = attrs  # recycled
            else:
                self.objects[each] = self.objects.get(each, {}) | attrs
        elif event.eventtype == "modified":
            changes = event.objattrs
            values = self.objects.get(each, {}) | changes["added"] | changes["modified"]
            for name in changes["removed"]:
                values.pop(name, None)
            self.objects[each] = values
        elif event.eventtype == "removed":
            if each in self.trashbin:  # for good
                self.destroyed.append((each, self.trashbin.pop(each)[1], event.offset))
            elif each in self.objects:
                self.trashbin[each] = (self.objects.pop(each), event.offset)


@dataclass(frozen=True)
class ClientHabits:
    """How a hermes-client lives; chances are for each event or loop."""

    timeout_seconds: float = 5.0
    wants_first_initsync: bool = False
    pause_chance: float = 0.01
    pause_seconds: tuple[float, float] = (0.5, 600.0)
    find_chance: float = 0.05
    idle_seconds: float = 0.0  # beside Hermes: to make fewer loops
    no_bus_seconds: float = 60.0  # Hermes' own; less makes a run shorter


class HermesClient:
    """One hermes-client; each call of run() is one life of its process."""

    def __init__(  # noqa: PLR0917 - what a world wires, in its order
        self,
        name: str,
        make_consumer: Callable[[], Any],
        rng: random.Random,
        record: Record,
        sleep: Callable[[float], None],
        history: History,
        *,
        habits: ClientHabits | None = None,
        ask_initsync: Callable[[], None] = lambda: None,
    ) -> None:
        self.name = name
        self.life = 0
        self.is_stopping = False
        self.is_calm = False  # no more pauses, shorter waits: a run nears its end
        self.target = Target()  # of the process
        self.disk = Target()  # what outlives it
        self.resets = 0
        self._make_consumer = make_consumer
        self._rng = rng
        self._record = record
        self._sleep = sleep
        self._history = history
        self._clock = history.clock
        self._habits = habits or ClientHabits()
        self._ask_initsync = ask_initsync
        self._plugin: Any = None
        self._position = FIRST
        self._refused_times = 0
        self._is_changed = False  # since the cache was saved

    # -- Its life ----------------------------------------------------------------------

    def run(self) -> None:
        """Live until stopped or killed; what disk holds is there at the next start."""
        self.life += 1
        self.target = self.disk.copy()
        self._plugin = self._make_consumer()
        self._plugin.setTimeout(round(self._habits.timeout_seconds * 1000))
        self._record(self.name, "starts, life %d", self.life)
        try:
            while not self.is_stopping:
                self._loop()
        except BaseException:
            self._note_end(was_killed=True)
            raise
        self._note_end(was_killed=False)

    def _note_end(self, *, was_killed: bool) -> None:
        self.is_stopping = False
        self._record(self.name, "was killed" if was_killed else "stopped")
        self._history.note_restart(self.name, was_killed=was_killed)

    def reset(self) -> None:
        """Begin anew from an initsync, as an operator makes it do."""
        self.resets += 1
        self._refused_times = 0
        self.disk = Target()
        self.target = Target()
        self._record(self.name, "is made new by its operator")
        self._ask_initsync()

    def _loop(self) -> None:
        """Do one round of mainLoop; the cache is saved at its end, even after errors.

        Not with `with`: nothing may run after a kill.
        """
        if self._habits.idle_seconds:
            most = _CALM_SECONDS if self.is_calm else self._habits.idle_seconds
            self._sleep(min(self._habits.idle_seconds, most))
        try:
            self._plugin.__enter__()
        except Exception as error:  # noqa: BLE001 - as Hermes does
            self._record(self.name, "no bus: %s", error)
            self._history.no_bus.append((self._clock(), self.name, str(error)))
            self._sleep(self._habits.no_bus_seconds)
            return
        try:
            self._work()
            self._refused_times = 0
        except IndexError as error:
            self._record(self.name, "was refused: %s", error)
            self._refused_times += 1
            self._sleep(_ERROR_SECONDS)
        except Exception as error:  # noqa: BLE001 - as Hermes does
            self._record(self.name, "failed: %s", error)
            self._sleep(_ERROR_SECONDS)
        self._plugin.__exit__(None, None, None)
        if self._is_changed:
            self.disk = self.target.copy()
            self._is_changed = False
        if self._refused_times >= _REFUSED_TIMES_UNTIL_AN_OPERATOR_COMES:
            self.reset()

    def _work(self) -> None:
        if self.target.is_initialized:
            if self._rng.random() < self._habits.find_chance:
                self._look_for_a_category()
            self._follow(is_initsync=False)
        elif self._can_be_initialized():
            self._follow(is_initsync=True)

    # -- Events ------------------------------------------------------------------------

    def _can_be_initialized(self) -> bool:
        """Look through the whole stream for an initsync."""
        began = self._clock()
        self._plugin.seekToBeginning()
        self._position = FIRST
        found = self._find_initsync()
        wants_first = self._habits.wants_first_initsync
        self._history.scans.append(
            Scan(self.name, began, self._clock(), wants_first, found)
        )
        self._record(self.name, "found initsync %s", found)
        if found is None:
            return False
        target = self.target
        self._is_changed = True
        target.init_start, target.init_stop = found
        if target.next_offset is None or target.next_offset < found[0]:
            target.next_offset = found[0]
        return True

    def _find_initsync(self) -> tuple[int, int] | None:
        found: tuple[int, int] | None = None
        start: int | None = None
        for event in self._events():
            if event.evcategory != "initsync":
                continue
            if event.eventtype == "init-start":
                start = event.offset
            elif event.eventtype == "init-stop" and start is not None:
                found = (start, event.offset)
                if self._habits.wants_first_initsync:
                    break
                start = None
        return found

    def _follow(self, *, is_initsync: bool) -> None:
        target = self.target
        category = "initsync" if is_initsync else "base"
        assert target.next_offset is not None
        assert target.init_stop is not None
        self._seek(target.next_offset)
        for event in self._events():
            after = event.offset + 1
            self._is_changed = True
            if is_initsync and event.offset > target.init_stop:
                target.next_offset = after
                break
            if event.evcategory != category:
                target.next_offset = after
                continue
            if event.eventtype == "init-start":
                target.objects.clear()
                target.trashbin.clear()
                continue
            if event.eventtype == "init-stop":
                target.next_offset = after
                break
            target.apply(event)
            target.next_offset = after
            self._maybe_pause()
            if self.is_stopping:
                break

    def _maybe_pause(self) -> None:
        if not self.is_calm and self._rng.random() < self._habits.pause_chance:
            seconds = self._rng.uniform(*self._habits.pause_seconds)
            self._record(self.name, "pauses for %.1f s", seconds)
            self._sleep(seconds)

    # -- The plugin --------------------------------------------------------------------

    def _seek(self, offset: int) -> None:
        self._position = offset
        asking = self._history.begin_asking(self.name, self.life, offset, is_seek=True)
        try:
            self._plugin.seek(offset)
        except Exception as error:
            self._note_failure(asking, error)
            raise
        self._history.end_asking(asking, Outcome.DONE)

    def _events(self) -> Iterator[Any]:
        """Iterate as `for event in plugin` does, and note each step."""
        events = iter(self._plugin)
        while True:
            asking = self._history.begin_asking(self.name, self.life, self._position)
            try:
                event = next(events, None)
            except Exception as error:
                self._note_failure(asking, error)
                raise
            if event is None:
                self._history.end_asking(asking, Outcome.END)
                self._record(self.name, "came to an end at %d", self._position)
                return
            self._history.end_asking(asking, Outcome.EVENT, event)
            self._record(self.name, "got %d", event.offset)
            self._position = event.offset + 1
            yield event

    def _look_for_a_category(self) -> None:
        """Use findNextEventOfCategory from somewhere that was read already."""
        target = self.target
        assert target.next_offset is not None
        assert target.init_start is not None
        category = self._rng.choice(("base", "initsync", "note"))
        self._seek(target.next_offset)
        asking = self._history.begin_asking(
            self.name, self.life, self._position, category
        )
        try:
            event = self._plugin.findNextEventOfCategory(category)
        except Exception as error:
            self._note_failure(asking, error)
            raise
        outcome = Outcome.END if event is None else Outcome.EVENT
        self._history.end_asking(asking, outcome, event)
        self._record(self.name, "found %s: %s", category, event and event.offset)

    def _note_failure(self, asking: Any, error: Exception) -> None:
        is_refused = isinstance(error, IndexError)
        outcome = Outcome.REFUSED if is_refused else Outcome.FAILED
        self._history.end_asking(asking, outcome, text=str(error))
