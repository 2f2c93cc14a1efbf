# SPDX-License-Identifier: Apache-2.0
"""A model of hermes-server (v1.0.9, server/hermesserver.py) around the real plugin.

A pass fetches the source, computes the difference to the cache and sends it; the cache
in memory learns each event that was sent, the one on disk after each kind of change. A
failure ends the pass, and another is computed anew; a full disk ends the process.

Long because it follows its original, which is one class.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from .disk import Disk, DiskFullError
from .events import changes_of, new_event, schema
from .history import Told
from .source import SECRET, TYPES

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterator

    from .history import History, Object, Pass, Send
    from .source import Source, Values

    Record = Callable[..., None]

UNKNOWN_TEXT: Final = "It is not known"
"""How the plugin's text begins where an event may stand."""

_IDLE_SECONDS: Final = 10.0
"""Hermes looks every second for what it is asked; a run needs not wake up so often."""

_CALM_SECONDS: Final = 0.3

_EVENT_SECONDS: Final = 0.0003
_SCHEMA_RETRY_SECONDS: Final = 0.002
"""Hermes tries a schema event again without any pause; this is its own work."""


@dataclass(frozen=True)
class Habits:
    """How a hermes-server lives; chances are for each event or pass."""

    update_interval_seconds: float = 30.0
    retry_seconds: float = 60.0  # Hermes' own; less makes a run shorter
    slow_chance: float = 0.3
    slow_seconds: tuple[float, float] = (0.05, 2.0)
    """For each event of a slow pass, as commit_one may take: what happens meanwhile
    happens inside the pass."""
    fetch_seconds: tuple[float, float] = (0.0, 0.0)
    freeze_chance: float = 0.002
    freeze_seconds: tuple[float, float] = (1.0, 200.0)


class HermesServer:
    """One hermes-server; each call of run() is one life of its process."""

    def __init__(  # noqa: PLR0917 - what a world wires, in its order
        self,
        name: str,
        make_producer: Callable[[], Any],
        rng: random.Random,
        record: Record,
        source: Source,
        sleep: Callable[[float], None],
        history: History,
        *,
        disk: Disk | None = None,
        habits: Habits | None = None,
    ) -> None:
        self.name = name
        self.disk = disk or Disk()
        self.life = 0
        self.wants_initsync = False  # as its command-line tool asks
        self.is_asked_soon = False  # the next process, as soon as it runs
        self.is_stopping = False  # as after SIGTERM: looked at only between passes
        self.is_calm = False  # no more freezes, shorter waits: a run nears its end
        self._make_producer = make_producer
        self._rng = rng
        self._record = record
        self._source = source
        self._sleep = sleep
        self._history = history
        self._clock = history.clock
        self._habits = habits or Habits()
        self._plugin: Any = None
        self._cache: dict[Object, Values] = {}
        self._pass: Pass | None = None
        self._is_slow = False
        self._send: Send | None = None

    # -- Its life ----------------------------------------------------------------------

    def run(self) -> None:
        """Live until stopped or killed; what disk holds is there at the next start."""
        self._start()
        try:
            self._check_schema()
            self._main_loop()
        except DiskFullError:
            self._record(self.name, "ends with a full disk")
            self._note_end(was_killed=True)
            return
        except BaseException:
            self._note_end(was_killed=True)
            raise
        self._note_end(was_killed=False)

    def restore(self, disk: Disk) -> None:
        """Let the next process begin with other files, which may be older."""
        self._history.note_forgotten(self.name, disk.lacks(self.disk.objects))
        self.disk = disk

    def _start(self) -> None:
        self.life += 1
        # A request is held in memory alone; one may come before the first pass.
        self.wants_initsync, self.is_asked_soon = self.is_asked_soon, False
        self._cache = dict(self.disk.objects)
        self._pass = None
        self._plugin = self._make_producer()
        self._watch(self._plugin)
        self._record(self.name, "starts, life %d", self.life)

    def _note_end(self, *, was_killed: bool) -> None:
        self.is_stopping = False
        self._record(self.name, "was killed" if was_killed else "stopped")
        self._history.note_restart(self.name, was_killed=was_killed)
        self._history.note_forgotten(self.name, self.disk.lacks(self._cache))

    def _check_schema(self) -> None:
        """Send the schema if it has changed; without a pause until it succeeds."""
        while not self.is_stopping and self.disk.schema != self._source.schema:
            version = self._source.schema
            if self.disk.schema is not None:
                event = new_event("base", "dataschema", None, schema(version))
                try:
                    self._with_plugin(
                        "dataschema", self._clock(), partial(self._give, event)
                    )
                except Exception as error:  # noqa: BLE001 - as Hermes does
                    self._record(self.name, "schema not sent: %s", error)
                    self._sleep(_SCHEMA_RETRY_SECONDS)
                    continue
            self.disk.schema = version

    def _main_loop(self) -> None:
        next_update = self._clock()
        if self.disk.last_update is not None:
            next_update = max(next_update, self.disk.last_update + self._interval)
        while not self.is_stopping:
            try:
                # Before the first fetch it would be empty, and nothing would follow.
                if self.wants_initsync and self.disk.last_update is not None:
                    self._with_plugin("initsync", self._clock(), self._initsync)
                    self.wants_initsync = False
                if self._clock() < next_update:
                    self._sleep(min(next_update - self._clock(), _IDLE_SECONDS))
                    continue
                next_update += self._interval
                self._update()
            except Exception as error:  # noqa: BLE001 - as Hermes does
                self._record(self.name, "pass ended: %s", error)
                self.disk.save_last_update(self.disk.last_update)
                self._wait_after_failure()

    def _wait_after_failure(self) -> None:
        ends_at = self._clock() + self._calm(self._habits.retry_seconds)
        while not self.is_stopping and self._clock() < ends_at:
            self._sleep(min(_IDLE_SECONDS, ends_at - self._clock()))

    @property
    def _interval(self) -> float:
        return self._calm(self._habits.update_interval_seconds)

    def _calm(self, seconds: float) -> float:
        return min(seconds, _CALM_SECONDS) if self.is_calm else seconds

    @property
    def is_in_pass(self) -> bool:
        """Tell whether it sends: where a fault tells most."""
        return self._pass is not None and self._pass.ended == float("inf")

    @property
    def is_in_initsync(self) -> bool:
        """Tell whether it sends one."""
        is_initsync = self._pass is not None and self._pass.kind == "initsync"
        return is_initsync and self.is_in_pass

    @property
    def is_ahead_of_disk(self) -> bool:
        """Tell whether a kill makes it forget events that it was told are stored."""
        return bool(self.disk.lacks(self._cache))

    # -- A pass ------------------------------------------------------------------------

    def _update(self) -> None:
        began = self._clock()
        fetched = self._source.fetch(self._cache)
        self._sleep(self._rng.uniform(*self._habits.fetch_seconds))
        self._maybe_freeze()
        is_first = self.disk.last_update is None  # the first one ever sends nothing
        body = self._fill if is_first else self._send_difference
        self._with_plugin("base", began, partial(body, fetched))
        self.disk.save_last_update(self._clock())

    def _fill(self, fetched: dict[Object, Values]) -> None:
        self._cache = dict(fetched)
        self._history.filled |= {
            (self.name, self.life, each, values[SECRET])
            for each, values in fetched.items()
            if SECRET in values
        }
        self.disk.save(self._cache)

    def _send_difference(self, fetched: dict[Object, Values]) -> None:
        for changes in self._difference(fetched):
            for event, each in changes:
                try:
                    self._give(event)
                except Exception:
                    self.disk.save(self._cache)
                    raise
                values = fetched.get(each)
                if values is None:
                    del self._cache[each]
                else:
                    self._commit_one(each, values)
                    self._cache[each] = values
            self.disk.save(self._cache)

    def _commit_one(self, each: Object, values: Values) -> None:
        secret = self._source.commit_one(each, values)
        if secret is not None and self._send is not None:
            self._history.wiped[each, secret] = self._send

    def _difference(
        self, fetched: dict[Object, Values]
    ) -> Iterator[list[tuple[Any, Object]]]:
        """Give the events of each kind of change, an order of objects drawn anew."""
        cache = dict(self._cache)
        added = [
            (new_event("base", "added", each, values), each)
            for each, values in fetched.items()
            if each not in cache
        ]
        modified = [
            (new_event("base", "modified", each, changes_of(cache[each], values)), each)
            for each, values in fetched.items()
            if each in cache and cache[each] != values
        ]
        removed = [
            (new_event("base", "removed", each, {}), each)
            for each in cache
            if each not in fetched
        ]
        yield self._ordered(added)
        yield self._ordered(modified)
        yield self._ordered(removed)[::-1]

    def _ordered(self, changes: list[tuple[Any, Object]]) -> list[tuple[Any, Object]]:
        """Put types in their order, objects of one type in any."""
        self._rng.shuffle(changes)
        return sorted(changes, key=lambda change: TYPES.index(change[1][0]))

    def _initsync(self) -> None:
        """Send the whole cache; a failure leaves the request standing."""
        version = self._source.schema
        self._give(new_event("initsync", "init-start", None, schema(version)))
        objects = [
            (new_event("initsync", "added", each, values), each)
            for each, values in self._cache.items()
        ]
        for event, _ in self._ordered(objects):
            self._give(event)
        self._give(new_event("initsync", "init-stop", None, {}))

    # -- The plugin --------------------------------------------------------------------

    def _with_plugin(self, kind: str, began: float, body: Callable[[], None]) -> None:
        """Do what `with plugin:` does, but that nothing runs after a kill.

        Not inside an except block: the plugin may ask sys.exc_info() at the end.
        """
        self._pass = self._history.begin_pass(self.name, self.life, kind, began)
        self._is_slow = (
            not self.is_calm and self._rng.random() < self._habits.slow_chance
        )
        try:
            self._plugin.__enter__()
        except Exception as error:
            self._history.end_pass(self._pass, error)
            raise
        self._pass.opened = self._clock()
        self._record(self.name, "begins pass %d (%s)", self._pass.number, kind)
        try:
            body()
        except Exception as error:
            self._plugin.__exit__(type(error), error, error.__traceback__)
            self._history.end_pass(self._pass, error)
            raise
        self._plugin.__exit__(None, None, None)
        self._history.end_pass(self._pass, None)

    def _give(self, event: Any) -> None:
        is_slow = self._is_slow and not self.is_calm
        slow = self._rng.uniform(*self._habits.slow_seconds) if is_slow else 0.0
        self._sleep(_EVENT_SECONDS + slow)
        self._maybe_freeze()
        self._plugin.send(event)

    def _maybe_freeze(self) -> None:
        if not self.is_calm and self._rng.random() < self._habits.freeze_chance:
            seconds = self._rng.uniform(*self._habits.freeze_seconds)
            self._record(self.name, "is frozen for %.1f s", seconds)
            self._sleep(seconds)

    def _watch(self, plugin: Any) -> None:
        """Note each `_send`, and the keys of its requests where they can be seen."""
        real_send = plugin._send
        plugin._send = lambda event: self._noted_send(real_send, event)
        http = getattr(plugin, "_http", None)
        if http is not None:
            for name in {"store", "begin_store"} & {*dir(http)}:
                setattr(http, name, partial(self._noted_store, getattr(http, name)))

    def _noted_send(self, real_send: Callable[[Any], Any], event: Any) -> Any:
        assert self._pass is not None
        number = self._pass.number
        body = event.to_json().encode()
        send = self._history.begin_send(self.name, self.life, number, event, body)
        if event.evcategory == "base":
            send.before = self._cache.get(send.object)
        self._send = send
        end = partial(self._history.end_send, send)
        self._record(self.name, "sends %s", send)
        try:
            offset = real_send(event)
        except Exception as error:
            text = str(error)
            is_unknown = text.startswith(UNKNOWN_TEXT)
            end(Told.UNKNOWN if is_unknown else Told.NOT_STORED, text=text)
            self._record(self.name, "#%d failed: %s", send.number, text)
            raise
        except BaseException:
            end(Told.KILLED)
            raise
        if offset is not None:
            end(Told.STORED, offset)
        else:
            is_base = event.evcategory == "base"
            end(Told.STANDING if is_base else Told.ACCEPTED)
        self._record(self.name, "#%d %s %s", send.number, send.told, offset)
        return offset

    def _noted_store(
        self,
        real_store: Callable[..., Any],
        body: bytes,
        headers: dict[str, str],
        *rest: Any,
        **options: Any,
    ) -> Any:
        key = headers.get("Idempotency-Key", "")
        if not body.startswith(b"\x1e"):
            self._note_key(body, key)
        else:
            for index, text in enumerate(body.split(b"\x1e")[1:], 1):
                self._note_key(text[:-1], f"{key}.{index}")
        return real_store(body, headers, *rest, **options)

    def _note_key(self, body: bytes, key: str) -> None:
        """Note the key of a send of this pass, which may be one before the last."""
        assert self._pass is not None
        for send in reversed(self._history.sends):
            if send.server != self.name:
                continue
            if send.pass_number != self._pass.number:
                return
            if send.body == body:
                if key not in send.keys:
                    send.keys.append(key)
                return


class Person:
    """Somebody with curl, who posts with `If-Match: *` what is no object of Hermes."""

    def __init__(  # noqa: PLR0917 - what a world wires, in its order
        self,
        name: str,
        post: Callable[[str, bytes], tuple[Told, int | None]],
        rng: random.Random,
        record: Record,
        sleep: Callable[[float], None],
        history: History,
    ) -> None:
        self.name = name
        self._post = post  # key, body -> what was told, and the offset
        self._rng = rng
        self._record = record
        self._sleep = sleep
        self._history = history

    def run(self, until: float, mean_pause_seconds: float = 120.0) -> None:
        """Post now and then; the function of an actor."""
        while True:
            self._sleep(self._rng.expovariate(1 / mean_pause_seconds))
            if self._history.clock() >= until:
                return
            self.post_once()

    def post_once(self) -> None:
        """Post one event."""
        category = self._rng.choice(("base", "note"))
        note = ("Notes", self._rng.randrange(2))
        event = new_event(category, "added", note, {"text": "by hand"})
        body = event.to_json().encode()
        send = self._history.begin_send(self.name, 1, 0, event, body)
        send.is_fenced = False
        send.keys.append(f"{self.name}-{send.number}")
        try:
            told, offset = self._post(send.keys[0], body)
        except BaseException:
            self._history.end_send(send, Told.KILLED)
            raise
        self._history.end_send(send, told, offset)
        self._record(self.name, "posted %s: %s %s", send, told, offset)
