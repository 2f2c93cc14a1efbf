# SPDX-License-Identifier: Apache-2.0
"""Which initsync is the newest, by what leaders and replicas say."""

from __future__ import annotations

import asyncio

import pytest

from sidecar.errors import Problem
from sidecar.jetstream.credentials import NatsServer
from sidecar.jetstream.supervisor import StreamSupervisor
from sidecar.model.publish_reply import Position, StoredMessage
from sidecar.model.scan import Open, Scan
from sidecar.model.stream import StreamInfo, StreamPlan
from sidecar.services.initsync_lookup import RetentionGuard


def newest_at(offset: int | None, header: str = "open=5,1") -> StoredMessage | None:
    if offset is None:
        return None
    time = "2026-01-01T00:00:00Z"
    return StoredMessage(offset, "s.initsync", "k", time, b"{}", initsync=header)


@pytest.mark.parametrize(
    ("first", "last", "again", "scan"),
    [
        (7, None, None, Scan(Open(5, 1))),  # it stands at L: more is not asked
        (5, 7, 5, Scan(Open(5, 1))),
        (None, 7, None, Scan()),
        (8, None, None, None),  # L is taken
        (5, 6, 5, None),  # who says where it ends does not know L
        (5, 8, 5, None),
        (5, 7, 6, None),  # the first answer was an old leader's
        (None, 7, 5, None),
    ],
)
async def test_that_nothing_came_before_l_is_taken_from_three_answers_alone(
    monkeypatch: pytest.MonkeyPatch,
    first: int | None,
    last: int | None,
    again: int | None,
    scan: Scan | None,
) -> None:
    bus = StreamSupervisor(
        "test", NatsServer(("nats://127.0.0.1:1",)), StreamPlan("s", "s", 3, 0)
    )
    answers = iter((newest_at(first), newest_at(again)))

    async def last_of(_: str) -> StoredMessage | None:
        return next(answers)

    async def position() -> Position:
        assert last is not None
        return Position(1, last)

    monkeypatch.setattr(bus.leader, "last_of", last_of)
    monkeypatch.setattr(bus.leader, "position", position)
    monkeypatch.setattr(bus.monitor, "has_one_leader", lambda: True)
    assert await bus.leader.scan_at(7) == scan


@pytest.mark.parametrize(("replicas", "is_known"), [(1, True), (3, False)])
async def test_of_several_replicas_one_has_to_lead_for_long_enough(
    monkeypatch: pytest.MonkeyPatch, replicas: int, *, is_known: bool
) -> None:
    """Else an old leader may have answered both times beside the new one."""
    bus = StreamSupervisor(
        "test", NatsServer(("nats://127.0.0.1:1",)), StreamPlan("s", "s", 3, 0)
    )
    bus.monitor.info = StreamInfo(
        {}, Position(1, 7), 7, 100, "", "n1", replicas, replicas, {}
    )

    async def last_of(_: str) -> StoredMessage | None:
        return newest_at(5)

    async def position() -> Position:
        return Position(1, 7)

    monkeypatch.setattr(bus.leader, "last_of", last_of)
    monkeypatch.setattr(bus.leader, "position", position)
    if is_known:
        assert await bus.leader.scan_at(7) == Scan(Open(5, 1))
    else:
        with pytest.raises(Problem):
            await bus.leader.scan_at(7)


@pytest.mark.parametrize(("replicas", "looks"), [(1, 1), (3, 2)])
async def test_what_one_of_several_leaders_said_is_asked_once_more(
    monkeypatch: pytest.MonkeyPatch, replicas: int, looks: int
) -> None:
    """An old leader may have answered, and nothing moves until it is noticed."""
    monkeypatch.setattr("sidecar.services.initsync_lookup.LOOK_SECONDS", 0.02)
    monkeypatch.setattr("sidecar.services.initsync_lookup.SETTLED_SECONDS", 0.2)
    bus = StreamSupervisor(
        "test", NatsServer(("nats://127.0.0.1:1",)), StreamPlan("s", "s", replicas, 0)
    )
    bus.monitor.cause = None
    bus.monitor.info = StreamInfo(
        {}, Position(1, 7), 7, 100, "", "n1", replicas, replicas, {}
    )
    asked = []

    async def last_of(_: str) -> StoredMessage | None:
        asked.append(1)
        return newest_at(5, "open=5,0" if len(asked) == 1 else "")

    monkeypatch.setattr(bus.leader, "last_of", last_of)
    guard = RetentionGuard(bus)
    running = asyncio.create_task(guard.run())
    await asyncio.sleep(0.7)  # as long as that nothing more is asked
    running.cancel()
    assert len(asked) == looks
