# SPDX-License-Identifier: Apache-2.0
"""How a pass is read: bounds, what is missing, and what nobody can say now."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

import pytest
from support.sidecar import event, plugin_key

from sidecar import errors
from sidecar.errors import Problem
from sidecar.model.last_pass import MAX_MESSAGES
from sidecar.model.publish_reply import Position, StoredMessage
from sidecar.services.last_passes import LastPasses
from sidecar.services.pages import Page, Query

if TYPE_CHECKING:
    from sidecar.errors import Cause
    from sidecar.jetstream.leader import StreamLeader
    from sidecar.services.reader import Reader
    from sidecar.telemetry.metrics import Metrics

FIRST = "11111111-1111-4111-8111-"
START = 40


def removed(offset: int) -> StoredMessage:
    body = event(eventtype="removed", objpkey=offset)
    return StoredMessage(
        offset, "hermes.base", plugin_key(offset, FIRST, START), "", body
    )


@dataclass
class Stream:
    """A leader and a reader of one stream, in the place of both."""

    messages: dict[int, StoredMessage]
    position: Position
    problems: list[Problem] = field(default_factory=list)
    newest: StoredMessage | None = None
    newest_of_initsync: StoredMessage | None = None
    recognised_count: int = 0
    deleted: set[int] = field(default_factory=set)

    def passes(self) -> LastPasses:
        leader = cast("StreamLeader", Leader(self))
        return LastPasses(leader, cast("Reader", self), cast("Metrics", self))

    async def read_page(self, query: Query) -> Page:
        assert query.with_keys
        assert query.offset is not None
        if self.problems:
            raise self.problems.pop(0)
        events = [each for at, each in self.messages.items() if at >= query.offset]
        following = self.position.last + 1
        if len(events) > 1:
            following = events[1].sequence + 1
        elif self.deleted:  # at the end: no message behind says that it is gone
            following = max(query.offset, max(self.messages) + 1)
        return Page(events[:2], following, self.position)

    def recognised(self) -> None:
        self.recognised_count += 1


@dataclass
class Leader:
    stream: Stream

    async def position(self) -> Position:
        return self.stream.position

    async def last_of(self, category: str) -> StoredMessage | None:
        is_base = category == "base"
        return self.stream.newest if is_base else self.stream.newest_of_initsync

    async def is_deleted(self, offset: int) -> bool:
        return offset in self.stream.deleted

    async def message(self, offset: int) -> StoredMessage | None:
        return self.stream.messages.get(offset)

    async def at_or_after(self, offset: int) -> StoredMessage | None:
        found = [each for at, each in self.stream.messages.items() if at >= offset]
        return found[0] if found else None


def stream_of(*offsets: int, first: int = 1, last: int | None = None) -> Stream:
    messages = {offset: removed(offset) for offset in offsets}
    last = offsets[-1] if last is None else last
    return Stream(messages, Position(first, last), newest=messages[offsets[-1]])


def offsets_of(objects: list[str]) -> list[int]:
    return sorted(int(text.split()[1]) for text in objects)


async def read(stream: Stream) -> list[int]:
    found = await stream.passes().read(None, "asks")
    assert (found.start, found.is_complete) == (START, True)
    return offsets_of(found.objects)


async def test_it_is_read_page_by_page() -> None:
    assert await read(stream_of(41, 42, 43, 44, 45)) == [41, 42, 43, 44, 45]


async def test_what_has_aged_out_is_not_looked_for() -> None:
    assert await read(stream_of(43, 44, first=43)) == [43, 44]


async def test_an_event_that_nobody_can_read_ends_what_is_before_it() -> None:
    stream = stream_of(41, 42, 43, 44)
    stream.problems = [Problem(errors.DISPLACED, offset=42)]
    assert await read(stream) == [43, 44]


async def test_the_newest_event_may_be_one_that_nobody_can_read() -> None:
    stream = stream_of(41, 42, 43)
    stream.problems = [Problem(errors.DISPLACED, offset=43)]
    assert await read(stream) == []


async def test_a_pass_that_begins_behind_its_own_event_is_none() -> None:
    """Forged, or copied from another stream; the next pass begins a true one."""
    key = plugin_key(1, FIRST, 42)
    stream = stream_of(41, 42)
    stream.newest = stream.messages[42]._replace(key=key)
    found = await stream.passes().read(None, "asks")
    assert (found.start, found.objects, found.is_complete) == (None, [], True)


async def test_a_user_that_may_not_read_pages_reads_each_event() -> None:
    stream = stream_of(41, 42, 44, 45)
    stream.problems = [Problem(errors.NATS_PERMISSION)] * 9
    assert await read(stream) == [44, 45]  # 43 is gone, whatever it was


@pytest.mark.parametrize("more", [0, 1])
async def test_a_pass_that_is_too_long_is_not_read(more: int) -> None:
    stream = stream_of(41, 42, last=START + MAX_MESSAGES + more)
    found = await stream.passes().read(None, "asks")
    assert found.is_complete is (more == 0)
    assert bool(found.objects) is (more == 0)


def init_stop(offset: int, header: str) -> StoredMessage:
    body = event("initsync", eventtype="init-stop")
    return StoredMessage(offset, "hermes.initsync", "k", "", body, initsync=header)


async def test_what_is_before_an_initsync_is_not_read() -> None:
    """However long that was: no such event is recognised."""
    after = START + MAX_MESSAGES
    stream = stream_of(41, after + 2, last=after + 2)
    stop = init_stop(after + 1, f"last={START + 5}-{after + 1},{MAX_MESSAGES - 6}")
    stream.messages = {41: removed(41), after + 1: stop, after + 2: removed(after + 2)}
    stream.newest_of_initsync = stop
    assert await read(stream) == [after + 2]
    stream.newest = removed(41)
    assert await read(stream) == []


@pytest.mark.parametrize("cause", [errors.NATS_DOWN, errors.JETSTREAM_UNAVAILABLE])
async def test_what_cannot_be_read_is_no_answer(cause: errors.Cause) -> None:
    stream = stream_of(41)
    stream.problems = [Problem(cause)]
    with pytest.raises(Problem) as caught:
        await stream.passes().read(None, "asks")
    assert caught.value.cause is cause


async def test_two_leaders_give_no_answer() -> None:
    stream = stream_of(41, 42, 43)
    stream.newest = removed(41)  # what an old one says
    with pytest.raises(Problem) as caught:
        await stream.passes().read(None, "asks")
    assert caught.value.cause is errors.JETSTREAM_UNAVAILABLE


@pytest.mark.parametrize("is_deleted", [True, False])
async def test_the_leader_alone_says_that_the_newest_message_was_deleted(
    *, is_deleted: bool
) -> None:
    """By a person, of a stream that lets him: else who answers may only lag."""
    stream = stream_of(41, 42, last=43)
    stream.deleted = {43 if is_deleted else 7}
    if is_deleted:
        assert await read(stream) == []
        match = await stream.passes().match(43, b"{}")
        assert (match.matches, match.key) == (False, None)
    else:
        with pytest.raises(Problem):
            await stream.passes().read(None, "asks")


async def test_a_page_without_an_event_is_no_answer() -> None:
    stream = stream_of(41)
    newest = stream.messages.pop(41)
    stream.newest = newest

    async def read_page(query: Query) -> Page:
        return Page([], cast("int", query.offset), stream.position)

    stream.read_page = read_page  # type: ignore[method-assign]
    with pytest.raises(Problem):
        await stream.passes().read(None, "asks")


@pytest.mark.parametrize(
    ("offset", "body", "matches"),
    [
        (42, removed(42).body, True),
        (42, b"{}", False),
        (41, removed(42).body, False),  # 41 is gone
        (99, b"{}", False),
    ],
)
async def test_an_event_matches_by_place_and_content(
    offset: int, body: bytes, *, matches: bool
) -> None:
    stream = stream_of(42, 43)
    match = await stream.passes().match(offset, body)
    assert match.matches is matches
    assert (match.position.last, match.last_key) == (43, stream.messages[43].key)
    assert stream.recognised_count == matches


async def test_who_lags_does_not_say_that_it_differs() -> None:
    stream = stream_of(41, last=44)
    with pytest.raises(Problem) as caught:
        await stream.passes().match(43, b"{}")
    assert caught.value.cause is errors.JETSTREAM_UNAVAILABLE


@pytest.mark.parametrize(
    ("later", "is_newest"),
    [
        ([removed(43), removed(44)], True),
        ([removed(43), removed(42)._replace(sequence=44)], False),
    ],
)
async def test_an_event_is_the_newest_if_nothing_behind_it_ends_that(
    later: list[StoredMessage], *, is_newest: bool
) -> None:
    stream = stream_of(42, last=44)
    stream.messages |= {each.sequence: each for each in later}
    match = await stream.passes().match(42, removed(42).body, is_newest=True)
    assert match.matches is is_newest
    assert stream.recognised_count == is_newest
    assert (await stream.passes().match(42, removed(42).body)).matches


@pytest.mark.parametrize("cause", [errors.DISPLACED, errors.HOLE])
async def test_an_event_that_nobody_can_read_behind_it_ends_that(cause: Cause) -> None:
    stream = stream_of(42, 43, 44)
    stream.problems = [Problem(cause, offset=43)]
    match = await stream.passes().match(42, removed(42).body, is_newest=True)
    assert not match.matches


async def test_where_too_much_is_behind_it_nothing_is_read() -> None:
    stream = stream_of(42, last=43 + MAX_MESSAGES)
    match = await stream.passes().match(42, removed(42).body, is_newest=True)
    assert not match.matches
