# SPDX-License-Identifier: Apache-2.0
"""When the next event of a batch is sent, and when none is any more.

The publisher is the test's own: a real one says when it is done too soon. What stands
in a real stream afterwards is in tests/services/publisher/test_batches_real.py.
"""

from __future__ import annotations

import asyncio
import math
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from support.sidecar import event

from sidecar import errors
from sidecar.errors import Outcome, Problem
from sidecar.jetstream.callbacks import await_callback
from sidecar.model.batch import MAX_EVENTS
from sidecar.model.decisions import InDoubt, Result, Stored
from sidecar.model.publish_reply import Observation, Position, StoredMessage
from sidecar.services import batches
from sidecar.services.batches import EVENT_SECONDS, MOST_LOOKS, Batch, Batches
from sidecar.services.large_events import SMALL_BYTES, Apart

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from sidecar.model.event import Event
    from sidecar.services.publish_attempt import OnDone

LAST = 41
TIMEOUT_SECONDS = 10.0


class Sent(NamedTuple):
    """What the publisher was given."""

    key: str
    last: int
    hold_seconds: float
    on_done: OnDone
    in_doubt: bool = False


class Parts:
    """A publisher that the test answers for, and a leader that shows `stands`."""

    def __init__(self) -> None:
        self.sent: list[Sent] = []
        self.failures: list[tuple[str, str]] = []
        self.found: list[str] = []
        self.stands: dict[int, StoredMessage] = {}
        self.looked_at: list[int] = []
        self.now = 1000.0
        self.stopping = asyncio.Event()
        self.at_once: list[tuple[list[str], int]] = []
        self.answer: Stored | InDoubt = InDoubt.NO
        self.context = SimpleNamespace(copy_seconds=2.0, run=self.run)
        everything: Any = self
        self.batches = Batches(
            everything, everything, Apart(), self.stopping, TIMEOUT_SECONDS
        )

    # -- As the publisher --------------------------------------------------------------

    def start(
        self, event: Event, key: str, last: int, on_done: OnDone, hold_seconds: float
    ) -> None:
        assert event.category == "initsync"
        self.sent.append(Sent(key, last, hold_seconds, on_done))

    def resolve(
        self, _: Event, key: str, last: int, on_done: OnDone, hold_seconds: float
    ) -> None:
        self.sent.append(Sent(key, last, hold_seconds, on_done, in_doubt=True))

    def failed(self, key: str, problem: Problem, *_: object) -> None:
        self.failures.append((key, problem.cause.code))

    def record_stored(self, _: Event, key: str, *__: object) -> None:
        self.found.append(key)

    def run(self, work: Coroutine[Any, Any, Result], on_done: OnDone) -> None:
        async def go_on() -> None:
            try:
                on_done(await work)
            except Problem as problem:
                on_done(problem)

        self.task = asyncio.create_task(go_on())

    async def store_at_once(
        self, publisher: object, events: Any, last: int, _: float
    ) -> Stored | InDoubt:
        assert publisher is self
        self.at_once.append(([key for key, _ in events], last))
        return self.answer

    # -- As the leader -----------------------------------------------------------------

    async def observe(self, sequence: int) -> Observation:
        self.looked_at.append(sequence)
        position = Position(1, max(self.stands, default=LAST))
        return Observation(position, self.stands.get(sequence))

    # -- What the test does ------------------------------------------------------------

    def begin(
        self, *texts: bytes, hold_seconds: float = math.inf, limit_bytes: int = 10**6
    ) -> asyncio.Task[Result]:
        body = b"".join(b"\x1e%s\n" % text for text in texts)
        batch = Batch("k", LAST, body, limit_bytes)
        return asyncio.create_task(
            await_callback(
                lambda on_done: self.batches.start(batch, on_done, hold_seconds)
            )
        )

    async def settle(self, count: int) -> Sent:
        """Wait until so many were sent; give the last of them."""
        for _ in range(2000):
            if len(self.sent) >= count:
                break
            await asyncio.sleep(0.001)
        for _ in range(20):  # more would be sent by now
            await asyncio.sleep(0)
        assert len(self.sent) == count
        return self.sent[-1]

    def stand(self, *texts: bytes, key: str = "k") -> None:
        """Let these stand already, from L + 1 on."""
        for index, text in enumerate(texts, 1):
            self.stands[LAST + index] = StoredMessage(
                LAST + index, "hermes.initsync", f"{key}.{index}", "", text
            )


@pytest.fixture
async def parts(monkeypatch: pytest.MonkeyPatch) -> Parts:
    parts = Parts()
    monkeypatch.setattr(batches, "time", SimpleNamespace(monotonic=lambda: parts.now))
    monkeypatch.setattr(batches, "store_at_once", parts.store_at_once)
    return parts


def added(number: int, **of: object) -> bytes:
    return event("initsync", objpkey=number, **of)


async def ended(task: asyncio.Task[Result]) -> Result:
    async with asyncio.timeout(10):
        return await task


def problem_of(task: asyncio.Task[Result]) -> dict[str, Any]:
    problem = task.result()
    assert isinstance(problem, Problem)
    return problem.document()


async def test_the_next_is_sent_when_the_one_before_was_seen_stored(
    parts: Parts,
) -> None:
    task = parts.begin(added(1), added(2), added(3))
    for index in (1, 2, 3):
        sent = await parts.settle(index)
        assert (sent.key, sent.last) == (f"k.{index}", LAST + index - 1)
        assert not task.done()
        sent.on_done(Stored(LAST + index, duplicate=False))
    assert await ended(task) == Stored(LAST + 3, duplicate=False)
    assert parts.looked_at == []


@pytest.mark.parametrize("outcome", [Outcome.NOT_STORED, Outcome.UNKNOWN])
async def test_after_one_that_is_not_seen_stored_none_is_sent(
    parts: Parts, outcome: Outcome
) -> None:
    task = parts.begin(added(1), added(2), added(3))
    (await parts.settle(1)).on_done(Stored(LAST + 1, duplicate=False))
    (await parts.settle(2)).on_done(Problem(errors.NATS_DOWN, outcome))
    await ended(task)
    assert (problem_of(task)["index"], problem_of(task)["outcome"]) == (2, outcome)
    await parts.settle(2)


async def test_each_event_gets_the_time_that_is_left(parts: Parts) -> None:
    task = parts.begin(*map(added, range(10)))
    whole = TIMEOUT_SECONDS + 10 * EVENT_SECONDS
    assert (await parts.settle(1)).hold_seconds == pytest.approx(whole)
    parts.now += 4
    parts.sent[-1].on_done(Stored(LAST + 1, duplicate=False))
    assert (await parts.settle(2)).hold_seconds == pytest.approx(whole - 4)
    task.cancel()


async def test_a_caller_that_waits_for_less_gets_its_answer_by_then(
    parts: Parts,
) -> None:
    task = parts.begin(added(1), added(2), added(3), hold_seconds=6)
    first = await parts.settle(1)
    assert first.hold_seconds == pytest.approx(6)
    parts.now += 3.9  # what a copy may take is left
    first.on_done(Stored(LAST + 1, duplicate=False))
    second = await parts.settle(2)
    parts.now += 0.2
    second.on_done(Stored(LAST + 2, duplicate=False))
    await ended(task)
    document = problem_of(task)
    assert document["code"] == "batch_unfinished"
    assert (document["index"], document["outcome"]) == (3, "not_stored")
    assert parts.failures == [("k.3", "batch_unfinished")]


async def test_a_repetition_comes_further_however_late_it_is(parts: Parts) -> None:
    texts = [added(1), added(2), added(3)]
    parts.stand(texts[0])
    task = parts.begin(*texts, hold_seconds=2)
    first = await parts.settle(1)
    parts.now += 30
    first.on_done(Stored(LAST + 1, duplicate=True))
    (await parts.settle(2)).on_done(Stored(LAST + 2, duplicate=False))
    await ended(task)
    assert (problem_of(task)["code"], problem_of(task)["index"]) == (
        "batch_unfinished",
        3,
    )


async def test_a_sidecar_that_stops_sends_no_more_of_it(parts: Parts) -> None:
    task = parts.begin(added(1), added(2))
    first = await parts.settle(1)
    parts.stopping.set()
    first.on_done(Stored(LAST + 1, duplicate=False))
    await ended(task)
    assert (problem_of(task)["code"], problem_of(task)["index"]) == ("stopping", 2)


# -- What an earlier request has stored ------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 3, 7, 40, 200])
async def test_what_stands_is_looked_at_and_not_sent_again(
    parts: Parts, count: int
) -> None:
    texts = list(map(added, range(count + 1)))
    parts.stand(*texts[:count])
    task = parts.begin(*texts)
    (await parts.settle(1)).on_done(Stored(LAST + 1, duplicate=True))
    sent = await parts.settle(2)
    assert sent.key == f"k.{count + 1}"
    assert parts.found == [f"k.{index}" for index in range(2, count + 1)]
    assert len(parts.looked_at) <= 2 * count + MOST_LOOKS
    sent.on_done(Stored(LAST + count + 1, duplicate=False))
    assert await ended(task) == Stored(LAST + count + 1, duplicate=False)


async def test_a_batch_of_which_all_stands_is_a_duplicate(parts: Parts) -> None:
    texts = list(map(added, range(50)))
    parts.stand(*texts)
    task = parts.begin(*texts)
    (await parts.settle(1)).on_done(Stored(LAST + 1, duplicate=True))
    assert await ended(task) == Stored(LAST + 50, duplicate=True)


async def test_a_batch_of_which_something_is_new_is_no_duplicate(parts: Parts) -> None:
    """As where the same request came twice, and both are under way."""
    task = parts.begin(added(1), added(2))
    (await parts.settle(1)).on_done(Stored(LAST + 1, duplicate=False))
    (await parts.settle(2)).on_done(Stored(LAST + 2, duplicate=True))
    assert await ended(task) == Stored(LAST + 2, duplicate=False)


@pytest.mark.parametrize("key", ["k", "theirs"])
async def test_what_is_not_ours_is_sent_to_learn_why(parts: Parts, key: str) -> None:
    """The same key with other bytes, or another key: the table says what it means."""
    parts.stand(added(1))
    parts.stands[LAST + 2] = StoredMessage(
        LAST + 2, "hermes.initsync", f"{key}.2", "", added(7)
    )
    task = parts.begin(added(1), added(2), added(3))
    (await parts.settle(1)).on_done(Stored(LAST + 1, duplicate=True))
    assert (await parts.settle(2)).key == "k.2"
    assert parts.found == []
    task.cancel()


async def test_a_leader_that_says_nothing_leaves_it_to_the_publish(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def observe(_: int) -> Observation:
        await asyncio.sleep(60)
        raise AssertionError

    monkeypatch.setattr(parts, "observe", observe)
    monkeypatch.setattr(batches, "LOOK_SECONDS", 0.01)
    task = parts.begin(added(1), added(2))
    (await parts.settle(1)).on_done(Stored(LAST + 1, duplicate=True))
    assert (await parts.settle(2)).key == "k.2"
    task.cancel()


# -- As one atomic batch ---------------------------------------------------------------


async def test_what_was_stored_at_once_is_not_sent_again(parts: Parts) -> None:
    parts.answer = Stored(LAST + 3, duplicate=False)
    task = parts.begin(*map(added, range(3)))
    assert await ended(task) == Stored(LAST + 3, duplicate=False)
    assert parts.at_once == [(["k.1", "k.2", "k.3"], LAST)]
    assert parts.sent == []


async def test_a_doubt_ends_when_one_of_them_was_stored_alone(parts: Parts) -> None:
    """Also where the sidecar stops: to say that it is not stored would be a guess."""
    parts.answer = InDoubt.YES
    texts = list(map(added, range(12)))
    parts.stand(*texts[:7])
    task = parts.begin(*texts)
    first = await parts.settle(1)
    assert (first.key, first.last, first.in_doubt) == ("k.1", LAST, True)
    parts.stopping.set()
    first.on_done(Stored(LAST + 1, duplicate=True))
    eighth = await parts.settle(2)
    assert (eighth.key, eighth.in_doubt) == ("k.8", True)
    eighth.on_done(Stored(LAST + 8, duplicate=False))
    await ended(task)
    assert (problem_of(task)["code"], problem_of(task)["index"]) == ("stopping", 9)
    assert len(parts.at_once) == 1


async def test_a_sidecar_that_stops_sends_no_atomic_batch(parts: Parts) -> None:
    parts.stopping.set()
    await ended(parts.begin(*map(added, range(3))))
    assert (parts.at_once, parts.sent) == ([], [])


# -- What is refused before anything is sent -------------------------------------------


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (b"", "malformed_json"),
        (b'{"evcategory": "initsync"', "malformed_json"),
        (b"[]", "malformed_json"),
        (b'{"evcategory": "a b"}', "illegal_category"),
        (event("base"), "not_a_batch"),
        (event("initsync", eventtype="init-start"), "not_a_batch"),
        (event("initsync", eventtype="init-stop"), "not_a_batch"),
        (added(2, objattrs={"photo": "x" * 1000}), "event_too_large"),
        (b'{"a":' * 101 + b"1" + b"}" * 101, "too_deep"),
    ],
)
async def test_one_that_is_refused_in_the_middle_refuses_all(
    parts: Parts, bad: bytes, code: str
) -> None:
    task = parts.begin(added(1), bad, added(3), limit_bytes=1000)
    await ended(task)
    assert parts.sent == []
    document = problem_of(task)
    assert (document["code"], document["index"]) == (code, 2)
    assert document["outcome"] == "not_stored"
    assert parts.failures == [("k.2", code)]


async def test_others_have_their_turn_while_a_large_batch_is_read(
    parts: Parts,
) -> None:
    text = added(1, objattrs={"photo": "x" * 1000})
    count = SMALL_BYTES // len(text) * 3
    assert count <= MAX_EVENTS
    turns = 0
    task = parts.begin(*[text] * count)
    while not parts.sent:
        turns += 1
        await asyncio.sleep(0)
    assert turns >= 4
    task.cancel()
