# SPDX-License-Identifier: Apache-2.0
"""What is known of a stream, and what is logged of it, without a NATS."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from sidecar import errors
from sidecar.jetstream.monitor import StreamMonitor
from sidecar.model.publish_reply import Position
from sidecar.model.stream import StreamInfo

if TYPE_CHECKING:
    from structlog.typing import EventDict

INFO = StreamInfo({}, Position(1, 7), 7, 100, "", "n1", 3, 3, {})


def names(lines: list[EventDict]) -> list[str]:
    return [line["event"] for line in lines]


def test_what_comes_again_is_logged_once_until_events_flow() -> None:
    monitor = StreamMonitor("writes", "hermes")
    with capture_logs() as lines:
        for _ in range(2):
            monitor.report(errors.STREAM_UNFIT, ["a"])
            monitor.report(errors.STREAM_UNFIT, ["b"])
            monitor.report(errors.STREAM_MISSING, [])
    assert names(lines) == ["stream_unfit", "stream_unfit", "stream_missing"]
    with capture_logs() as lines:
        monitor.report(None, [])
        monitor.report(None, [])
        monitor.report(errors.STREAM_MISSING, [])
        monitor.report(None, [])
    assert names(lines) == ["nats_connected", "stream_missing", "nats_reconnected"]


def test_of_connections_that_end_at_once_nothing_more_is_logged() -> None:
    monitor = StreamMonitor("writes", "hermes")
    monitor.is_flapping = True
    with capture_logs() as lines:
        monitor.report(errors.STREAM_MISSING, [])
        monitor.report(None, [])
    assert lines == []
    assert monitor.cause is None


async def test_whoever_waits_for_an_offset_wakes_when_the_leader_names_it() -> None:
    monitor = StreamMonitor("reads", "hermes")
    waiting = asyncio.create_task(monitor.wait_for(8, 60))
    await asyncio.wait_for(monitor.reader_waits.wait(), 10)
    await monitor.note(INFO)
    assert not waiting.done()
    await monitor.note(replace(INFO, position=Position(1, 8)))
    await asyncio.wait_for(waiting, 10)
    assert not monitor.reader_waits.is_set()
    await monitor.wait_for(9, 0.01)
    assert not monitor.reader_waits.is_set()


async def test_what_a_leader_without_majority_said_is_not_recent() -> None:
    monitor = StreamMonitor("reads", "hermes")
    await monitor.note(INFO)
    assert monitor.recent_info() is INFO
    monitor.note_follower(replace(INFO, leader=None))
    assert monitor.recent_info() is None
    assert monitor.info == replace(INFO, leader=None)
    await monitor.note(replace(INFO, live_replicas=1))
    assert monitor.recent_info() is None


def stands(last: int) -> StreamInfo:
    return replace(INFO, position=Position(1, last))


async def test_the_leader_is_asked_often_after_an_event_of_which_nobody_told() -> None:
    monitor = StreamMonitor("reads", "hermes")
    await monitor.note(INFO)
    assert monitor.is_told  # nobody has stored anything yet
    monitor.hear_stored()
    assert monitor.stored.is_set()
    monitor.begin_round()
    assert not monitor.stored.is_set()
    await monitor.note(stands(8))
    assert monitor.is_told
    await monitor.note(replace(stands(8), position=Position(2, 8)))  # by age
    assert monitor.is_told
    await monitor.note(stands(9))
    assert not monitor.is_told
    monitor.hear_stored()
    assert monitor.is_told


async def test_an_answer_holds_for_whoever_came_before_its_question(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 10.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    monitor = StreamMonitor("reads", "hermes")
    assert monitor.position_since(0.0) is None
    monitor.begin_round()
    now = 11.0
    await monitor.note(INFO)
    assert monitor.position_since(10.0) == Position(1, 7)
    assert monitor.position_since(10.5) is None
    now = 14.0
    assert monitor.position_since(10.0) is None  # too old to be the end


async def test_what_was_told_is_looked_for_often_until_it_comes_or_for_a_second(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A mirror gets it later than the word."""
    now = 10.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    monitor = StreamMonitor("reads", "hermes")
    await monitor.note(INFO)
    assert not monitor.is_urgent()
    monitor.hear_stored()
    assert monitor.is_urgent()
    await monitor.note(INFO)
    assert monitor.is_urgent()
    await monitor.note(stands(8))
    assert not monitor.is_urgent()
    monitor.hear_stored()  # it had come before
    now = 11.5
    assert not monitor.is_urgent()
    await monitor.note(stands(9))  # the old word is taken for its own
    await monitor.note(stands(10))
    assert monitor.is_urgent()


@pytest.mark.parametrize(
    ("readers", "seconds"),
    [(0, 0.01), (1, 0.01), (40, 0.01), (60, 0.015), (9_999, 0.025)],
)
def test_many_who_wait_are_woken_less_often(readers: int, seconds: float) -> None:
    monitor = StreamMonitor("reads", "hermes")
    for _ in range(readers):
        monitor.reader_came()
    assert monitor.pause_seconds(0.01) == pytest.approx(seconds)
