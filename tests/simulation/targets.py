# SPDX-License-Identifier: Apache-2.0
"""In the end each target equals the source, and everybody got on. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .claims import Violation, standing
from .clients import Target
from .events import parsed
from .history import NO_STREAM, Outcome, Told
from .killed import life_of
from .source import OBJECTS, SECRET, without_secret

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from .claims import Stored
    from .history import History, Object, Send
    from .invariants import End, Facts
    from .killed import LastPasses
    from .source import Source

    Owned = tuple[Stored, Send]


def check_targets(passes: LastPasses, facts: Facts, end: End) -> Iterator[Violation]:
    """Judge what a run has come to."""
    history = passes.history
    now = history.clock()
    yield from _check_stuck(history, end, now)
    excused = _Excuses(passes, facts, end)
    for name, target in end.targets.items():
        if target.is_initialized:
            for each in OBJECTS:
                why = _difference(each, target, end.source, excused)
                if why:
                    yield Violation(why[0], f"{name}: {each} {why[1]}", now)
        for each, first, second in target.destroyed:
            # A restore may take away the `added` between two that are both right.
            if not facts.restored and excused.is_one_change(first, second):
                text = f"{name}: {each} by {first} and {second}"
                yield Violation("destroyed", text, now)
    yield from _check_secrets(passes, end.source)


class _Excuses:
    """Where a target may differ, since Hermes itself can know no better.

    An event of which Hermes was not told that it stands, or whose memory was lost with
    its process, may be an object's newest; if the source went back, nothing comes.
    """

    def __init__(self, passes: LastPasses, facts: Facts, end: End) -> None:
        history, stored = passes.history, passes.stored
        self._passes = passes
        self._all: dict[Object, list[Owned]] = {each: [] for each in OBJECTS}
        self._owners: dict[int, Send | None] = {}
        self._places: dict[int, int] = {}
        self._epochs: dict[int, int] = {}
        self._restored = max(facts.restored, default=-1)
        for place in standing(stored, history.ends):
            message, owner = stored[place], passes.owners[place]
            self._owners[message.offset] = owner
            self._places[message.offset] = place
            self._epochs[message.offset] = message.epoch
            if owner is not None:
                self._all.get(owner.object, []).append((message, owner))
        self.base = {
            each: [owned for owned in events if owned[0].category == "base"]
            for each, events in self._all.items()
        }
        self._servers = end.servers
        self._recognised: set[int] = set()
        """The sends of which Hermes was told later, each by a send that recognised it.

        Of an object's events before that one it was told nothing: one of them may have
        removed the object."""
        self._forgotten = set(history.forgotten)
        for send in history.sends:
            if send.told is Told.STANDING and not send.is_forgotten:
                self._recognise(send)

    def _recognise(self, send: Send) -> None:
        for message, owner in reversed(self.base.get(send.object, [])):
            if owner.number < send.number and message.time <= send.ended:
                self._recognised.add(owner.number)
                break

    def after(self, each: Object, offset: int) -> list[Owned]:
        """Give an object's events after an offset."""
        return [owned for owned in self.base[each] if owned[0].offset > offset]

    def covers(self, each: Object, target: Target) -> bool:
        """Tell whether a target may differ in an object."""
        assert target.init_start is not None
        assert target.init_stop is not None
        if self._epochs.get(target.init_start, -1) < self._restored:
            return True  # from before a backup: it should have been made new
        events = self.after(each, target.init_start)
        if events:
            message, owner = events[-1]
            if message.offset < target.init_stop:
                return True  # another server's, inside an initsync: clients pass it by
            return self.is_lost_to_hermes(owner) or self.is_contradicted(each, target)
        starter = self._owners.get(target.init_start)
        if starter is None or starter.server not in self._servers:
            return True
        return each in self._forgotten

    def is_contradicted(self, each: Object, target: Target) -> bool:
        """Tell whether Hermes remembered an object otherwise than its events say.

        An event says what changed in its server's memory. Two servers, an event that
        Hermes was never told of, or a memory that was lost make what neither means.
        """
        fold = Target()
        is_so = is_explained = False
        servers = set()
        for message, owner in self._told_to(each, target):
            state = fold.objects.get(each)
            servers.add(owner.server)
            if message.category == "base":
                if owner.kind == "added":
                    is_so = False  # it says all
                elif without_secret(owner.before or {}) != without_secret(state or {}):
                    is_so = True
                is_explained |= self.is_lost_to_hermes(owner)
            fold.apply(parsed(message.body))
        return is_so and (is_explained or len(servers) > 1 or each in self._forgotten)

    def secrets_are_mixed(self, each: Object, target: Target) -> bool:
        """Tell whether two servers told a client of an object."""
        owners = [owner for _, owner in self._told_to(each, target)]
        return len({owner.server for owner in owners}) > 1

    def _told_to(self, each: Object, target: Target) -> list[Owned]:
        """Give what a client was told of an object since its initsync began."""
        assert target.init_start is not None
        assert target.init_stop is not None
        first, stop = target.init_start, target.init_stop
        return [
            (message, owner)
            for message, owner in self._all[each]
            if (message.offset > stop and message.category == "base")
            or (first < message.offset < stop and message.category == "initsync")
        ]

    def is_one_change(self, first: int, second: int) -> bool:
        """Tell whether the second of two removals should have been known for one."""
        one, other = self._owners.get(first), self._owners.get(second)
        if one is None or other is None:
            return True
        if life_of(one) == life_of(other):
            return not self.is_lost_to_hermes(one)
        content = self._passes.contents.before(self._places[second])
        return self._passes.why_new(other, content) is None

    def is_lost_to_hermes(self, owner: Send | None) -> bool:
        """Tell whether Hermes does not know that this event stands."""
        if owner is None:
            return False
        if owner.server not in self._servers:
            return True
        if owner.number in self._recognised:
            return False
        return owner.is_forgotten or owner.told is not Told.STORED


def _difference(
    each: Object,
    target: Target,
    source: Source,
    excused: _Excuses,
) -> tuple[str, str] | None:
    right = source.objects.get(each)
    is_there = target.objects.get(each)
    if (right is None) != (is_there is None):
        if excused.covers(each, target):
            return None
        return "target_differs", "is missing" if right else "should be gone"
    if right is None or is_there is None:
        return None
    if without_secret(right) != without_secret(is_there):
        if excused.covers(each, target):
            return None
        return "target_differs", f"is {is_there}, the source has {right}"
    secret = source.last_secret.get(each)
    assert target.init_stop is not None
    newest, owner = _newest_secret(excused.after(each, target.init_stop))
    if secret is None or newest is None or excused.covers(each, target):
        return None
    if excused.is_lost_to_hermes(owner) or excused.secrets_are_mixed(each, target):
        return None
    stands = any(
        _secret_of(parsed(message.body)) == secret for message, _ in excused.base[each]
    )
    if is_there.get(SECRET) != newest or (stands and newest != secret):
        return "secret_lost", "has not the secret that was set last"
    return None


def _newest_secret(events: Sequence[Owned]) -> tuple[str | None, Send | None]:
    for message, owner in reversed(events):
        event = parsed(message.body)
        if event.eventtype == "removed":
            return None, None
        secret = _secret_of(event)
        if secret is not None:
            return secret, owner
    return None, None


def _secret_of(event: Any) -> str | None:
    attrs = event.objattrs
    if event.eventtype == "modified":
        attrs = attrs["added"] | attrs["modified"]
    secret: str | None = attrs.get(SECRET)
    return secret


def _check_secrets(passes: LastPasses, source: Source) -> Iterator[Violation]:
    """See that what the source has no more was stored at some time.

    But for what a server's first cache began with, unsent, and the source wiped after
    another change of that object: only an initsync made before a restart would tell it.
    """
    seen: set[tuple[Object, str]] = set()
    history = passes.history
    for message, owner in zip(passes.stored, passes.owners, strict=True):
        if owner is not None:  # an initsync has it, where the cache began with it
            secret = _secret_of(parsed(message.body))
            if secret is not None:
                seen.add((owner.object, secret))
    for each, secret in source.last_secret.items():
        # What it still has is not sent yet, or is again what Hermes remembers.
        if SECRET in source.objects[each] or (each, secret) in seen:
            continue
        wiper = history.wiped.get((each, secret))
        is_unsent = wiper is not None and (
            (wiper.server, wiper.life, each, secret) in history.filled
            and _secret_of(parsed(wiper.body)) is None
        )
        if not is_unsent:
            yield Violation("secret_lost", f"that of {each}", history.clock())


def _check_stuck(history: History, end: End, now: float) -> Iterator[Violation]:
    for server in end.servers:
        through = [
            each
            for each in history.passes
            if each.server == server and each.went_through and each.kind == "base"
        ]
        if not through or through[-1].began < end.source.changed_at:
            text = f"{server}: no pass went through since the source's last change"
            yield Violation("stuck", text, now)
    last = history.ends[-1].last if history.ends else NO_STREAM
    reached: dict[str, int] = {}
    for asking in history.askings:
        if asking.outcome is Outcome.END and asking.category is None:
            reached[asking.client] = asking.position
    for client, target in end.targets.items():
        if not target.is_initialized or reached.get(client, 0) <= last:
            where = target.next_offset if target.is_initialized else "no initsync"
            yield Violation("stuck", f"{client} at {where}, the end is {last}", now)
