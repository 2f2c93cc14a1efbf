# SPDX-License-Identifier: Apache-2.0
"""A model of hermes-server around the real producer plugin.

It works in passes. A failure ends a pass, and the next one is computed anew from what
the source holds by then. It is stopped between two passes, or killed in the middle of a
request, and a new process with a new plugin begins with the saved cache.
"""

from __future__ import annotations

import importlib
import threading
import time
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from .broken import break_publisher
from .checker import Attempt, Pass, Told
from .source import Planned, Source

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterable

    from .history import History
    from .options import Options

_BETWEEN_PASSES_SECONDS = 0.1
"""After a bus that could not be opened; Hermes waits longer."""
_CUT_SECONDS = 0.001
"""After which a killed process leaves the request that it has sent."""
_BATCH_EVENTS = 5, 40
"""Of an initsync of some 80 objects: stored one by one, or by an atomic batch."""
_INITSYNCS = 0.05
"""The share of passes in which somebody asks for an initsync."""
_UNKNOWN = "It is not known"

DEATHS: Final = ("before its request", "in its request", "after its answer")


class Killed(BaseException):
    """The process is gone; nothing of it catches this."""


class HermesServer(threading.Thread):
    """One hermes-server: one producer plugin at a time, and passes until stopped."""

    def __init__(
        self,
        number: int,
        make_plugin: Callable[[], Any],
        options: Options,
        history: History,
        rng: random.Random,
    ) -> None:
        super().__init__(name=f"hermes-server {number}", daemon=True)
        self.make_plugin = make_plugin
        self.options = options
        self.history = history
        self.rng = rng
        self.source = Source(f"Users{number}", rng)
        self.stopping = threading.Event()
        self.active = threading.Event()  # else it stands by
        self.active.set()
        self.failure: str | None = None
        self._errors = importlib.import_module("lib.plugins").FailedToSendEventError
        self._pass = Pass(number)
        self._planned: Planned | None = None
        self._failed: Planned | None = None
        self._keys: dict[str, None] = {}
        self._batched: dict[bytes, dict[str, None]] = {}  # keys by text
        self._accepted: dict[bytes, int] = {}  # attempts of this initsync by text
        self._unsaved: list[int] = []  # attempts that only the cache in memory holds
        self._wants_initsync = True
        self._wants_schema = False
        self._death: str | None = None
        self._ends: str | None = None
        self._hold, self._held = threading.Event(), threading.Event()
        self._began = threading.Condition()
        self._start_process()

    def run(self) -> None:
        try:
            while not self.stopping.is_set():
                if self.active.wait(0.05):
                    self._work()
            self._close()
        except Exception as error:  # noqa: BLE001 - shown by the run
            self.failure = f"{self.name}: {type(error).__name__}: {error}"

    # -- What the faults ask for -------------------------------------------------------

    def restart(self, seconds: float = 30) -> bool:
        """Have it stopped between two passes and started again; tell whether it was."""
        self._ends = "stopped"
        return self._is_new_process(seconds)

    def kill(self, death: str, seconds: float = 30) -> bool:
        """Have it killed at its next request; tell whether it was."""
        self._death = death
        return self._is_new_process(seconds)

    def _is_new_process(self, seconds: float) -> bool:
        before = self._pass.process
        with self._began:
            began = self._began.wait_for(lambda: self._pass.process > before, seconds)
        if not began:
            self._death = self._ends = None
        return began

    def freeze(self, seconds: float = 5) -> bool:
        """Have it stand still in the middle of a pass; tell whether it does."""
        self._hold.set()
        if self._held.wait(seconds):
            return True
        self.thaw()
        return False

    def thaw(self) -> None:
        """Let it go on as if no time had passed."""
        self._hold.clear()

    # -- Its processes -----------------------------------------------------------------

    def _start_process(self) -> None:
        self.plugin = self.make_plugin()
        self._send = self.plugin._send
        self.plugin._send = self._recording_send
        http = self.plugin._http
        for name in ("store", "begin_store"):
            setattr(http, name, partial(self._store_noted, getattr(http, name)))
        break_publisher(self.plugin, self.options.publisher)
        for name in ("store", "begin_store"):
            setattr(http, name, partial(self._store_or_die, getattr(http, name)))

    def _store_noted(
        self, store: Any, body: bytes, headers: dict[str, str], *rest: Any
    ) -> Any:
        """Keep the key that a request carries, or those of the objects of a batch."""
        key = headers["Idempotency-Key"]
        if not body.startswith(b"\x1e"):
            self._keys[key] = None
        for index, text in enumerate(body.split(b"\x1e")[1:], 1):
            text_key = f"{key}.{index}"
            self._batched.setdefault(text[:-1], {})[text_key] = None
            if text[:-1] in self._accepted:
                self.history.add_key(self._accepted[text[:-1]], text_key)
        return store(body, headers, *rest)

    def _store_or_die(
        self, store: Any, body: bytes, headers: dict[str, str], *rest: Any
    ) -> Any:
        death = self._death
        if death is None:
            return store(body, headers, *rest)
        if death == "in its request":
            store(body, headers, *rest[:-1], _CUT_SECONDS)
        elif death == "after its answer":
            store(body, headers, *rest)
        raise Killed

    def _end_process(self, how: str) -> None:
        """Let a new process follow one that was stopped or killed."""
        self.plugin._http.close()
        self._death = self._ends = None
        self._wants_initsync = False
        self._wants_schema = self.rng.random() < 0.2  # it looks at its start alone
        self.source.restart()
        time.sleep(self.rng.choice([0.0, self.rng.uniform(0.0, 0.5)]))
        self._start_process()
        with self._began:
            last = self._pass
            self._pass = replace(last, process=last.process + 1, ended=how)
            self._began.notify_all()

    def _close(self) -> None:
        """Go through a pass, and send a last event, behind which no copy can land."""
        ends_at = time.monotonic() + self.options.patience_seconds
        self._death = self._ends = None
        go, source = self._go_through, self.source
        while not (go(source.difference()) and go([[source.schema()]])):
            if time.monotonic() > ends_at:
                self.failure = f"{self.name}: the closing event could not be stored"
                return

    # -- Passes ------------------------------------------------------------------------

    def _work(self) -> None:
        try:
            if self._wants_schema:
                self._wants_schema = not self._go_through([[self.source.schema()]])
                return
            draw = self.rng.random()
            if self._wants_initsync or draw < _INITSYNCS:
                folder = type(self.plugin).__module__.rpartition(".")[0]
                gathered = importlib.import_module(f"{folder}.gathered")
                vars(gathered)["MOST_EVENTS"] = self.rng.choice(_BATCH_EVENTS)
                self._wants_initsync = not self._go_through([self.source.initsync()])
                return
            if self._failed is None:
                self.source.change()
            else:
                self.source.change_after_failure(self._failed)
            self._go_through(self.source.difference())
        except Killed:
            self.history.forget(self._unsaved)
            self._unsaved.clear()
            self._end_process("killed")
            return
        if self._ends is not None:
            self._end_process("stopped")

    def _go_through(self, groups: Iterable[list[Planned]]) -> bool:
        """Send a pass; False when it was cut short.

        Never inside an except block: the plugin asks sys.exc_info() at the end whether
        its pass went through.
        """
        went_through = False
        try:
            with self.plugin:
                now = time.time()
                number = self._pass.number + 1
                self._pass = replace(self._pass, number=number, began_at=now)
                self._failed = None
                for group in groups:
                    for planned in group:
                        self._send_one(planned)
                    self._save()
        except self._errors:
            self._save()
        except Exception as error:
            if type(error).__name__ != "NatsSidecarError":
                raise
            self.history.add_failed_open(str(error))
            time.sleep(_BETWEEN_PASSES_SECONDS)
        else:
            went_through = True
        if went_through:
            self._turn_over()
        return went_through

    def _turn_over(self) -> None:
        """From here on what looks like an earlier event is a new one."""
        self._pass = replace(self._pass, age=self._pass.age + 1)

    def _send_one(self, planned: Planned) -> None:
        if self._hold.is_set() and self._unsaved:
            self._held.set()
            while self._hold.is_set():
                time.sleep(0.002)
            self._held.clear()
        self._planned = self._failed = planned
        if planned.kind == "init-start":
            self._batched.clear()
            self._accepted.clear()
        if planned.kind == "init-stop":
            self._turn_over()  # it lacks what Hermes was not told of
        self.plugin.send(planned.event)
        self._failed = None
        self.source.commit(planned)

    def _save(self) -> None:
        self.source.save()
        self._unsaved.clear()

    def _recording_send(self, event: Any) -> int | None:
        assert self._planned is not None
        offset: int | None = None
        text = ""
        told = Told.STORED
        self._keys.clear()
        try:
            offset = self._send(event)
        except Exception as error:
            text = str(error)
            told = Told.UNKNOWN if text.startswith(_UNKNOWN) else Told.NOT_STORED
            raise
        except Killed:
            told = Told.KILLED
            raise
        else:
            if offset is not None:
                told = Told.STORED
            elif event.evcategory == "base":
                told = Told.STANDING
            else:
                told = Told.ACCEPTED
            return offset
        finally:
            number = self.history.add(
                Attempt(
                    body=self._planned.body,
                    told=told,
                    keys=(*self._keys, *self._batched.get(self._planned.body, ())),
                    offset=offset,
                    text=text,
                    during=self._pass,
                    at=time.monotonic(),
                )
            )
            self._unsaved.append(number)
            if told is Told.ACCEPTED:
                self._accepted[self._planned.body] = number
