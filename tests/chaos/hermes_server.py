# SPDX-License-Identifier: Apache-2.0
"""A model of hermes-server around the real producer plugin.

It works in passes. A failure ends a pass, and the next one is computed anew: the event
that failed comes again byte for byte, or another one does, or none.
"""

from __future__ import annotations

import importlib
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from parts.hermes import new_event

from .checker import Attempt, Told

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator

    from .ledger import Ledger

_OBJECTS = 40
_CLOSING_SECONDS = 120.0
_BETWEEN_PASSES_SECONDS = 0.1
"""After a bus that could not be opened; Hermes waits longer."""
_UNKNOWN = "It is not known"


@dataclass
class Planned:
    """An event that Hermes computed; the flags are those of Attempt."""

    event: Any
    again: bool = False
    is_new: bool = False

    @property
    def object(self) -> str:
        return f"{self.event.objtype} {self.event.objpkey}"

    @property
    def may_come_again(self) -> bool:
        return bool(
            self.event.evcategory == "base" and self.event.eventtype != "dataschema"
        )


class HermesServer(threading.Thread):
    """One hermes-server: one producer plugin and passes until stopped."""

    def __init__(
        self, number: int, plugin: Any, ledger: Ledger, rng: random.Random
    ) -> None:
        super().__init__(name=f"hermes-server {number}", daemon=True)
        self.number = number
        self.plugin = plugin
        self.ledger = ledger
        self.rng = rng
        self.stopping = threading.Event()
        self.failure: str | None = None
        self._count = 0
        self._left: list[Planned] = []  # what the last pass could not send
        self._sent_in_pass = 0
        self._last_through: Planned | None = None
        self._errors = importlib.import_module("lib.plugins").FailedToSendEventError
        self._send = plugin._send
        plugin._send = self._recording_send
        self._planned = Planned(None)
        self._was_unknown = False

    def run(self) -> None:
        try:
            while not self.stopping.is_set():
                self._pass(self._compute())
            self._close()
        except Exception as error:  # noqa: BLE001 - shown by the run
            self.failure = f"{self.name}: {type(error).__name__}: {error}"

    def _close(self) -> None:
        """Send a last event, behind which no earlier copy can land any more."""
        ends_at = time.monotonic() + _CLOSING_SECONDS
        self._left = []
        while not self._pass([self._new("added", "base")]):
            if time.monotonic() > ends_at:
                self.failure = f"{self.name}: the closing event could not be stored"
                return

    # -- One pass ----------------------------------------------------------------------

    def _pass(self, plan: list[Planned]) -> bool:
        """Send a plan; False when it was cut short.

        Never inside an except block: the plugin asks sys.exc_info() at the end whether
        its pass went through.
        """
        position = -1
        self._sent_in_pass = 0
        try:
            with self.plugin:
                for position, planned in enumerate(plan):  # noqa: B007 - used below
                    self._planned = planned
                    self.plugin.send(planned.event)
                    if self.stopping.is_set():
                        break
        except self._errors:
            went_through = False
        except Exception as error:
            if type(error).__name__ != "NatsSidecarError":
                raise
            self.ledger.add_failed_open(str(error))
            self._left = plan
            time.sleep(_BETWEEN_PASSES_SECONDS)
            return False
        else:
            went_through = True
        if went_through:
            self._left = []
            self._last_through = plan[0] if self._sent_in_pass else None
        else:
            self._left = self._recompute(plan, position)
        return went_through

    def _recording_send(self, event: Any) -> int | None:
        planned = self._planned
        offset: int | None = None
        told, text = Told.STORED, ""
        try:
            offset = self._send(event)
        except Exception as error:
            text = str(error)
            told = Told.UNKNOWN if text.startswith(_UNKNOWN) else Told.NOT_STORED
            raise
        else:
            self._sent_in_pass += offset is not None
            told = Told.STANDING if offset is None else Told.STORED
            return offset
        finally:
            self.ledger.add(
                Attempt(
                    producer=self.number,
                    body=event.to_json().encode(),
                    object=planned.object,
                    told=told,
                    offset=offset,
                    text=text,
                    again=planned.again,
                    is_new=planned.is_new,
                )
            )
            self._was_unknown = told is Told.UNKNOWN

    # -- What Hermes computes ----------------------------------------------------------

    def _recompute(self, plan: list[Planned], position: int) -> list[Planned]:
        """Give what is left of a pass that failed at a position."""
        failed, rest = plan[position], plan[position + 1 :]
        if failed.event.evcategory == "initsync":
            return [self._anew(each) for each in plan]  # from its beginning
        again = [each for each in rest if self.rng.random() < 0.5]
        choice = self.rng.random()
        if choice < 0.5:
            came_before = failed.again or self._was_unknown
            again.append(Planned(failed.event, again=came_before))
            self.rng.shuffle(again)
        elif choice < 0.75:
            again = [each for each in again if each.object != failed.object]
            again.append(self._new("modified", "base", failed.event.objpkey))
        return list(_expectations(again))

    @staticmethod
    def _anew(planned: Planned) -> Planned:
        return Planned(planned.event, is_new=True)

    def _compute(self) -> list[Planned]:
        if self._left:
            return self._left
        draw = self.rng.random()
        if draw < 0.03:
            return list(self._initsync())
        plan = [self._new() for _ in range(self.rng.randint(1, 12))]
        if draw < 0.08 and self._last_through and self._last_through.may_come_again:
            # The same password is set twice: nothing may be taken for known.
            plan.insert(0, Planned(self._last_through.event, is_new=True))
        return plan

    def _initsync(self) -> Iterator[Planned]:
        yield self._new("init-start", "initsync", None)
        for _ in range(self.rng.randint(1, 5)):
            yield self._new("added", "initsync")
        yield self._new("init-stop", "initsync", None)

    def _new(
        self, kind: str = "", category: str = "base", pkey: int | None = -1
    ) -> Planned:
        self._count += 1
        if not kind:
            kinds = ["added", "modified", "removed", "dataschema"]
            kind = self.rng.choices(kinds, [3, 5, 2, 0.2])[0]
        if pkey == -1:
            pkey = self.rng.randrange(_OBJECTS)
        size = self.rng.choices([0, 200, 5_000, 60_000], [60, 36, 4, 0.2])[0]
        return Planned(
            new_event(
                category,
                kind,
                objtype=f"Users{self.number}",
                objpkey=pkey,
                objattrs={
                    "number": self.number * 10_000_000 + self._count,
                    "padding": "x" * size,
                },
            )
        )


def _expectations(plan: list[Planned]) -> Iterator[Planned]:
    """Expect recognition only before any other event of the same object."""
    objects: set[str] = set()
    for planned in plan:
        first = planned.object not in objects
        expected = planned.again and planned.may_come_again and first
        yield Planned(planned.event, again=expected, is_new=planned.is_new)
        objects.add(planned.object)
