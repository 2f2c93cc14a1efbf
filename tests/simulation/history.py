# SPDX-License-Identifier: Apache-2.0
"""What each actor did and was told, with its virtual time: what invariants judge.

It only notes; it is cheap, since every run keeps all of it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

Object = tuple[str, Any]
"""Type and primary key of an object."""

FIRST: Final = -1
"""The position of a reader that went to the beginning and has got nothing yet."""

NO_STREAM: Final = -1
"""The last offset while no stream exists; an empty stream's is first - 1."""


class Told(StrEnum):
    """What `_send` told Hermes."""

    STORED = "stored"  # an offset
    STANDING = "stands already"  # None, of a base event
    ACCEPTED = "accepted"  # None, of an event of an initsync
    NOT_STORED = "not stored"
    UNKNOWN = "unknown"
    KILLED = "killed"  # its process ended in it
    PENDING = "pending"


OPEN_OUTCOMES: Final = (Told.UNKNOWN, Told.KILLED, Told.PENDING, Told.ACCEPTED)
"""An event of which this was told may stand, or not."""


@dataclass(slots=True, eq=False)
class Send:
    """One `_send`, or one post by a person; times are virtual seconds."""

    number: int  # in the order of beginning, over all actors
    server: str
    life: int  # of its process; it counts up at each start
    pass_number: int
    body: bytes
    category: str
    kind: str  # Hermes' eventtype
    object: Object
    began: float
    ended: float = float("inf")
    told: Told = Told.PENDING
    offset: int = 0
    text: str = ""
    keys: list[str] = field(default_factory=list)  # as far as they are known
    before: dict[str, Any] | None = None  # the object in Hermes' cache
    is_fenced: bool = True  # False: If-Match: *
    is_forgotten: bool = False  # told stored, but the cache that knew was lost

    def __str__(self) -> str:
        name = f"{self.category} {self.kind} {' '.join(map(str, self.object))}"
        return f"#{self.number} {self.server}/{self.life}.{self.pass_number} {name}"


@dataclass(slots=True, eq=False)
class Pass:
    """One `with plugin:` of a hermes-server."""

    server: str
    life: int
    number: int
    kind: str  # base, initsync or dataschema
    began: float  # the source was fetched
    opened: float = float("inf")
    ended: float = float("inf")
    went_through: bool = False
    text: str = ""


class Outcome(StrEnum):
    """How one call of a client to its plugin ended."""

    EVENT = "event"
    END = "end"
    REFUSED = "refused"  # IndexError
    FAILED = "failed"
    DONE = "done"  # a seek
    PENDING = "pending"  # or killed


@dataclass(slots=True, eq=False)
class Asking:
    """One seek, one step of an iteration, or one findNextEventOfCategory."""

    client: str
    life: int
    position: int  # the next offset, or FIRST
    category: str | None
    is_seek: bool
    began: float
    ended: float = float("inf")
    outcome: Outcome = Outcome.PENDING
    event: Any = None
    text: str = ""


class Scan(NamedTuple):
    """One search of a client for the initsync that it begins with."""

    client: str
    began: float
    ended: float
    wants_first: bool
    found: tuple[int, int] | None  # offsets of init-start and init-stop


class Sight(NamedTuple):
    """What the status page or /v1/stream showed to somebody."""

    began: float
    ended: float
    rows: list[tuple[int, str, str, str]]  # offset, category, type, size
    initsync: tuple[int, int] | None = None  # the last complete one


class Ends(NamedTuple):
    """What the true stream began and ended with, from a moment on."""

    time: float
    epoch: int
    first: int
    last: int


class Sample(NamedTuple):
    """What /health said, and whether a publish could succeed then.

    `verdict`: which initsync is the last complete one, as its offsets; "none", or
    "unknown"; "" where nothing was said.
    """

    where: str
    time: float
    is_ready: bool
    reasons: tuple[str, ...]
    can_publish: bool
    verdict: str = ""


class Restart(NamedTuple):
    """The end of a process."""

    who: str
    time: float
    was_killed: bool


class History:
    """All that was noted in one run."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.sends: list[Send] = []
        self.passes: list[Pass] = []
        self.askings: list[Asking] = []
        self.scans: list[Scan] = []
        self.ends: list[Ends] = []
        self.sights: list[Sight] = []
        self.no_bus: list[tuple[float, str, str]] = []  # that open() told a client
        self.samples: list[Sample] = []
        self.verdicts: list[tuple[str, float, str]] = []  # in the end: who, when, what
        self.restarts: list[Restart] = []
        self.forgotten: set[Object] = set()
        """Of which a cache on disk said something else than the one that ended."""
        self.filled: set[tuple[str, int, Object, str]] = set()
        """The secrets that a life of a server took into its first cache, unsent."""
        self.wiped: dict[tuple[Object, str], Send] = {}
        """By object and secret: the last send after which its source was told so."""

    def begin_pass(self, server: str, life: int, kind: str, began: float) -> Pass:
        """Note that a pass begins, of a source that was fetched at `began`."""
        noted = Pass(server, life, len(self.passes) + 1, kind, began)
        self.passes.append(noted)
        return noted

    def end_pass(self, noted: Pass, failure: BaseException | None) -> None:
        """Note how it ended."""
        noted.ended = self.clock()
        noted.went_through = failure is None
        noted.text = "" if failure is None else str(failure)

    def begin_send(
        self, server: str, life: int, pass_number: int, event: Any, body: bytes
    ) -> Send:
        """Note that an event is handed to the bus."""
        noted = Send(
            len(self.sends) + 1,
            server,
            life,
            pass_number,
            body,
            event.evcategory,
            event.eventtype,
            (event.objtype or "", event.objpkey),
            self.clock(),
        )
        self.sends.append(noted)
        return noted

    def end_send(
        self, noted: Send, told: Told, offset: int | None = None, text: str = ""
    ) -> None:
        """Note what was told of it."""
        noted.ended = self.clock()
        noted.told = told
        noted.offset = offset or 0
        noted.text = text

    def begin_asking(
        self,
        client: str,
        life: int,
        position: int,
        category: str | None = None,
        *,
        is_seek: bool = False,
    ) -> Asking:
        """Note that a client asks its plugin."""
        noted = Asking(client, life, position, category, is_seek, self.clock())
        self.askings.append(noted)
        return noted

    def end_asking(
        self, noted: Asking, outcome: Outcome, event: Any = None, text: str = ""
    ) -> None:
        """Note what it got."""
        noted.ended = self.clock()
        noted.outcome = outcome
        noted.event = event
        noted.text = text

    def note_restart(self, who: str, *, was_killed: bool) -> None:
        """Note that a process ended."""
        self.restarts.append(Restart(who, self.clock(), was_killed))

    def note_forgotten(self, server: str, objects: set[Object]) -> None:
        """Note that a server's next process knows no more what was sent of these."""
        self.forgotten |= objects
        left = set(objects)
        for send in reversed(self.sends):
            is_told = send.told in (Told.STORED, Told.STANDING)
            if send.server == server and send.category == "base" and is_told:
                send.is_forgotten |= send.object in left
                left.discard(send.object)

    def note_ends(self, epoch: int, first: int, last: int) -> None:
        """Note what the true stream holds from now on; at each change of it."""
        self.ends.append(Ends(self.clock(), epoch, first, last))
