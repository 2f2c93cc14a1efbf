# SPDX-License-Identifier: Apache-2.0
"""What keeps events out of the stream, for each producer apart. Pure: times come in.

A producer is the plugin of one hermes-server from its start to its end; the first part
of its keys names it. Whoever sends other keys, as a person with curl, is
somebody else: whose failures are a warning at most, and whose success proves nothing.

A producer that fails is *unable* until it stores any event. An event that is refused
for good, or failed in two passes, leaves Hermes *blocked* whatever else is stored: its
object is remembered until an event of it is stored, or, since the source may have taken
the change back, until a pass that needed it went through: for a base event a pass of
which the plugin says so at its next `open()`, for one of an initsync its init-stop.

A stream or a server without room stores nobody's event: whoever met that, it is told
until somebody's event is stored, or for a minute.

A restart of Hermes ends both, and nobody tells: a producer that is new since the
failing one was last heard of, and that stores an event or ends a pass, takes its place.
(A sidecar that was started between two hermes-servers may take one for the other; the
failing one fails again at its next try.) Hermes tries again at its next update, however
far away; who is not heard of for an hour is taken for gone.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import TYPE_CHECKING, Final

from sidecar import errors
from sidecar.model.event import parse_object
from sidecar.model.producer_key import PROCESS, PROCESS_LENGTH, producer_of
from sidecar.model.scan import INITSYNC, STOP

if TYPE_CHECKING:
    from collections.abc import Callable

    from sidecar.errors import Cause, Problem
    from sidecar.model.event import Event

GONE_SECONDS: Final = 3600.0
"""After so much silence a producer is taken for gone."""

WARNING_SECONDS: Final = 600.0
"""How long it is told that a caller, or somebody who is no Hermes, was refused."""

FULL_SECONDS: Final = 60.0
"""How long it is told that there was no room, where nobody tries again."""

MAX_PRODUCERS: Final = 32
MAX_OBJECTS: Final = 64
"""Of one producer."""

_FINAL = frozenset(
    {
        errors.NATS_PERMISSION,
        errors.STREAM_FULL,
        errors.STORAGE_FULL,
        errors.EVENT_TOO_LARGE,
        errors.PUBLISH_REFUSED,
        errors.FOREIGN_ANSWER,
        errors.KEY_REUSED,
        errors.ILLEGAL_CATEGORY,
        errors.MALFORMED_JSON,
        errors.TOO_DEEP,
        errors.TOO_WIDE,
        errors.MALFORMED_PRECONDITION,
        errors.PRECONDITION_REQUIRED,
        errors.UNSUPPORTED_MEDIA_TYPE,
        errors.NOT_A_BATCH,
    }
)
"""What does not pass by itself: Hermes comes with the same event again and again."""

_OF_ALL = frozenset({errors.STREAM_FULL, errors.STORAGE_FULL})
"""What keeps everybody from storing."""

_BLOCKED_TRIES = 2
_SERVER_ERROR = 500


@dataclass(frozen=True)
class Failure:
    """Why an event is not stored: since when, in how many tries, last by which key.

    `name` is the object's type. Nothing here is of a payload.
    """

    cause: Cause
    key: str
    since: float
    tries: int = 1
    category: str | None = None
    name: str | None = None
    size_bytes: int | None = None
    limit_bytes: int | None = None

    @property
    def is_blocked(self) -> bool:
        """Tell whether it stands whatever else is stored."""
        return self.cause in _FINAL or self.tries >= _BLOCKED_TRIES

    def after(self, earlier: Failure | None) -> Failure:
        """Go on from an earlier failure; a repetition of a request is no new try."""
        if earlier is None:
            return self
        tries = earlier.tries + (earlier.key != self.key)
        return replace(self, since=earlier.since, tries=tries)


@dataclass
class _Producer:
    """What is remembered of one producer; moments monotonic.

    `unable`: it stored nothing since; `waiting`: a request of it goes on for longer
    than one copy; `unopened`: it could not learn the last offset.
    `tried_at`: when it last failed, or came without having ended a pass.
    """

    came_at: float
    heard_at: float
    tried_at: float
    unable: Failure | None = None
    waiting: Failure | None = None
    unopened: Failure | None = None
    objects: dict[bytes, Failure] = field(default_factory=dict)

    @property
    def is_well(self) -> bool:
        return not (self.unable or self.waiting or self.unopened or self.objects)

    def clear(self) -> None:
        self.unable = self.waiting = self.unopened = None
        self.objects.clear()

    def forget(self, is_over: Callable[[Failure], bool]) -> None:
        self.objects = {
            digest: each for digest, each in self.objects.items() if not is_over(each)
        }

    def failures(self) -> list[Failure]:
        blocked = [each for each in self.objects.values() if each.is_blocked]
        unable = (self.unable, self.waiting, self.unopened)
        return blocked or [each for each in unable if each is not None]


class Failures:
    """Remembers failed requests to store an event, a bounded number of them."""

    def __init__(self) -> None:
        self._secret = secrets.token_bytes(32)
        self._producers: dict[str, _Producer] = {}
        self._are_well = True
        self._other: tuple[Cause, float] | None = None
        self._of_all: Failure | None = None
        self._of_all_until = 0.0
        self._caller: tuple[Cause, float] | None = None
        self.second_writer_at: float | None = None

    def record_stored(self, key: str, event: Event, now: float) -> None:
        """Note that this event stands."""
        if self._are_well and key[:PROCESS_LENGTH] in self._producers:
            return  # almost always
        self._of_all = None
        name = producer_of(key)
        if name is None:
            self._other = None
            return
        producer = self._meet(name, now)
        producer.unable = producer.waiting = producer.unopened = None
        if producer.objects:
            producer.objects.pop(self._digest(event.body)[0], None)
            if event.category == INITSYNC and event.type == STOP:
                producer.forget(lambda each: each.category == INITSYNC)
        self._supersede(producer)

    def record_wait(self, key: str, since: float) -> None:
        """Note that a request was not settled by its first copy, sent at `since`."""
        name = producer_of(key)
        if name is not None:
            cause = errors.JETSTREAM_UNAVAILABLE
            self._meet(name, since).waiting = Failure(cause, key, since)
            self._are_well = False

    def record_failure(
        self, key: str, problem: Problem, start: bytes, since: float, now: float
    ) -> None:
        """Note that a request that came at `since` failed.

        `start` is what is there of its body, from its first byte on.
        """
        cause, name = problem.reason, producer_of(key)
        if cause in _OF_ALL:
            self._of_all = Failure(cause, key, since).after(self._of_all)
            self._of_all_until = now + FULL_SECONDS
            self._are_well = False
        if cause is errors.PRECONDITION_FAILED:
            self._record_taken(key, problem, now)
        elif cause is errors.WRONG_ROLE:
            self.record_refused_caller(cause, now)
        elif name is not None:
            self._record_failure(name, Failure(cause, key, since), problem, start, now)
        elif cause is errors.EVENT_TOO_LARGE or cause.status >= _SERVER_ERROR:
            self._other = (cause, now)

    def _record_failure(
        self, name: str, failure: Failure, problem: Problem, start: bytes, now: float
    ) -> None:
        producer = self._meet(name, now)
        producer.waiting, producer.tried_at = None, now
        digest, category, object_name = self._digest(start)
        failure = replace(
            failure,
            category=category,
            name=object_name,
            size_bytes=_number(problem, "size_bytes"),
            limit_bytes=_number(problem, "limit_bytes"),
        )
        if digest or failure.is_blocked:
            known = failure.after(producer.objects.pop(digest, None))
            if len(producer.objects) >= MAX_OBJECTS:
                del producer.objects[next(iter(producer.objects))]
            producer.objects[digest] = known
        producer.unable = failure.after(producer.unable)
        self._are_well = False

    def _record_taken(self, key: str, problem: Problem, now: float) -> None:
        """Note that another event holds the next offset: nobody is unable to store."""
        is_second, name = is_second_writer(key, problem), producer_of(key)
        if is_second:
            self.second_writer_at = now
        if name is None:
            return
        producer = self._meet(name, now)
        producer.waiting = None
        if not is_second:  # its own, of which nobody knew: now it is known to stand
            producer.unable = None
            stored = _stored_key(problem)
            producer.forget(lambda each: each.key == stored)
        self._look()

    def record_open(self, header: str, now: float, cause: Cause | None = None) -> None:
        """Note that a producer begins a pass; `cause` is why it cannot.

        `header` is Hermes-Producer: its name, and `;whole` if its last pass was one of
        base events and went through.
        """
        name, _, last_pass = header.partition(";")
        if not PROCESS.fullmatch(name):
            return
        producer = self._meet(name, now)
        if last_pass.strip() == "whole":
            producer.clear()
            self._supersede(producer)
        producer.tried_at = now
        earlier, producer.unopened = producer.unopened, None
        if cause is not None:
            producer.unopened = Failure(cause, "", now).after(earlier)
        self._look()

    def record_refused_caller(self, cause: Cause, now: float) -> None:
        """Note that somebody may not use the API: nobody knows who, nor who is next."""
        self._caller = (cause, now)

    def worst(self, now: float) -> Failure | None:
        """Give what keeps a producer from storing: what blocks it before all else."""
        for producer in self._producers.values():
            if now - producer.tried_at > GONE_SECONDS and producer.waiting is None:
                producer.clear()
        if now > self._of_all_until:
            self._of_all = None
        self._look()
        found = [each for one in self._producers.values() for each in one.failures()]
        if not found and self._of_all is not None:
            return self._of_all
        return min(found, key=lambda one: (not one.is_blocked, one.since), default=None)

    def other(self, now: float) -> Cause | None:
        """Give why somebody else's event was refused last, if that was just now."""
        return _recent(self._other, now)

    def refused_caller(self, now: float) -> Cause | None:
        """Give why a caller was refused last, if that was just now."""
        return _recent(self._caller, now)

    def _meet(self, name: str, now: float) -> _Producer:
        """Give what is remembered of a producer, which is there at this moment."""
        producer = self._producers.get(name)
        if producer is None:
            if len(self._producers) >= MAX_PRODUCERS:
                del self._producers[min(self._producers, key=self._worth)]
            producer = self._producers[name] = _Producer(now, now, now)
        producer.heard_at = max(now, producer.heard_at)
        return producer

    def _worth(self, name: str) -> tuple[bool, float]:
        producer = self._producers[name]
        return not producer.is_well, producer.heard_at

    def _supersede(self, producer: _Producer) -> None:
        """Forget those whose place this one took; it stored, or ended a pass."""
        for other in self._producers.values():
            if other.heard_at < producer.came_at:
                other.clear()
        self._look()

    def _look(self) -> None:
        are_well = all(each.is_well for each in self._producers.values())
        self._are_well = are_well and self._of_all is None

    def _digest(self, start: bytes) -> tuple[bytes, str | None, str | None]:
        """Give what an object is known by, without its key; empty where none is."""
        found = parse_object(start)
        if found is None:
            return b"", None, None
        text = "\0".join(found).encode()
        digest = blake2b(text, digest_size=16, key=self._secret).digest()
        return digest, found.category, found.name


def is_second_writer(key: str, problem: Problem) -> bool:
    """Tell whether another than this key's producer holds the next offset."""
    name = producer_of(key)
    return problem.cause is errors.PRECONDITION_FAILED and (
        name is None or producer_of(_stored_key(problem)) != name
    )


def _stored_key(problem: Problem) -> str:
    return str(problem.members.get("key"))


def _number(problem: Problem, member: str) -> int | None:
    value = problem.members.get(member)
    return value if isinstance(value, int) else None


def _recent(told: tuple[Cause, float] | None, now: float) -> Cause | None:
    return told[0] if told is not None and now - told[1] <= WARNING_SECONDS else None
