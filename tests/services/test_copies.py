# SPDX-License-Identifier: Apache-2.0
"""Whoever answers a direct get in the place of our stream misleads no reader."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from support.leader import Leader
from support.process import wait_until
from support.tasks import running

from sidecar import errors
from sidecar.errors import Problem
from sidecar.jetstream.credentials import NatsServer
from sidecar.model.health import assess
from sidecar.model.initsync import Verdict
from sidecar.services.daemon import Daemon
from sidecar.services.pages import Query
from sidecar.settings import Settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from support.nats import NatsProcess

    from sidecar.services.pages import Page

BLOCK = b"NATS/1.0\r\n\r\n"


@pytest.fixture
def leader(plain: NatsProcess) -> Iterator[Leader]:
    with Leader(plain, "hermes", last=7) as leader:
        leader.first = leader.followers_first = 8
        for number in range(6):
            leader.store("hermes.base", BLOCK, b"%d" % number)
        yield leader


@asynccontextmanager
async def serving(nats: NatsProcess) -> AsyncIterator[Daemon]:
    daemon = Daemon(Settings(role="consumer"), NatsServer((nats.url,)))
    async with running(daemon.run()), asyncio.timeout(60):
        await daemon.supervisor.wait()
        yield daemon


def offsets(page: Page) -> list[int]:
    return [message.sequence for message in page.events]


@pytest.mark.parametrize("name", ["backup", "", None])
@pytest.mark.parametrize("category", [None, "base"])
async def test_an_answer_that_does_not_name_our_stream_is_nobodys(
    plain: NatsProcess, leader: Leader, name: str | None, category: str | None
) -> None:
    leader.direct_stream = name
    async with serving(plain) as daemon:
        asked = leader.direct_asked
        page = await daemon.reader.read(Query(8, category=category))
        assert leader.direct_asked == asked + 1
        assert offsets(page) == ([8] if category else [8, 9, 10, 11, 12, 13])
        assert [event.body for event in page.events][:1] == [b"0"]
        copies = daemon.reader.copies
        assert (copies.strangers, copies.stranger) == (1, name or "")
        await daemon.reader.read(Query(9))
        assert leader.direct_asked == asked + 1  # copies are left alone


async def test_a_silent_copy_costs_a_second_and_its_late_answer_is_nobodys(
    plain: NatsProcess, leader: Leader
) -> None:
    leader.is_silent = True
    async with serving(plain) as daemon:
        began = time.monotonic()
        page = await daemon.reader.read(Query(8, limit=2))
        assert time.monotonic() - began > 0.9
        assert offsets(page) == [8, 9]
        asked = leader.direct_asked
        assert offsets(await daemon.reader.read(Query(10))) == [10, 11, 12, 13]
        assert leader.direct_asked == asked  # for ten seconds
        assert daemon.reader.copies.late == 1
        leader.is_silent = False
        daemon.reader.copies.__init__()  # type: ignore[misc]  # ten seconds later
        asked = leader.direct_asked
        page = await daemon.reader.read(Query(12))  # behind the late answer from 8 on
        assert (offsets(page), leader.direct_asked) == ([12, 13], asked + 1)


async def test_a_copy_that_is_frozen_holds_no_reader_up_in_a_row_of_readers(
    plain: NatsProcess, leader: Leader
) -> None:
    leader.is_silent = True
    async with serving(plain) as daemon:
        began = time.monotonic()
        pages = await asyncio.gather(
            *(daemon.reader.read(Query(8, limit=1)) for _ in range(12))
        )
        assert time.monotonic() - began < 10  # one after the other: 12
        assert [offsets(page) for page in pages] == [[8]] * 12


@pytest.mark.parametrize("category", [None, "base"])
async def test_what_a_copy_lacks_is_read_from_the_leader(
    plain: NatsProcess, leader: Leader, category: str | None
) -> None:
    leader.followers_first = 10  # they have removed what the leader still holds
    async with serving(plain) as daemon:
        page = await daemon.reader.read(Query(8, category=category))
        assert offsets(page)[0] == 8
        assert daemon.reader.copies.behind == 1


async def test_what_ages_out_between_two_questions_is_gone_and_no_hole(
    plain: NatsProcess, leader: Leader
) -> None:
    leader.followers_first = 12
    async with serving(plain) as daemon:
        await asyncio.to_thread(
            wait_until, lambda: daemon.supervisor.monitor.info is not None
        )
        leader.ages = 50
        with pytest.raises(Problem) as caught:
            await daemon.reader.read(Query(8))
        assert caught.value.cause is errors.OFFSET_GONE


async def test_nothing_is_remembered_of_a_stream_that_was_restored(
    plain: NatsProcess, leader: Leader
) -> None:
    """Its `created` is the same, and it reaches as far again before anybody looks."""

    def initsync(*kinds: str) -> None:
        for kind in kinds:
            scan = "last=14-15,0" if kind == "init-stop" else "open=14,0"
            block = (
                f"NATS/1.0\r\nHermes-Event-Type: {kind}\r\n"
                f"Hermes-Initsync: {scan}\r\n\r\n"
            ).encode()
            leader.store("hermes.initsync", block, b"{}")

    async with serving(plain) as daemon:
        initsync("init-start", "init-stop")
        info = await daemon.supervisor.leader.stream_info()
        assert [row.type for row in await daemon.recent.rows(info)][:2] == [
            "init-stop",
            "init-start",
        ]
        found = (await daemon.guard.known(info)).initsync
        assert found is not None
        assert (found.start.offset, found.stop.offset) == (14, 15)
        leader.restore(13)
        for _ in range(2):
            leader.store("hermes.base", BLOCK, b"{}")
        info = await daemon.supervisor.leader.stream_info()
        assert {row.type for row in await daemon.recent.rows(info)} == {None}
        assert await daemon.guard.known(info) == Verdict()


@pytest.mark.parametrize(
    ("name", "told"), [("backup", "backup"), ("\u00e9 secret", "(of another name)")]
)
async def test_a_stranger_is_named_though_nobody_reads(
    plain: NatsProcess,
    leader: Leader,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    told: str,
) -> None:
    monkeypatch.setattr("sidecar.services.reader.TRY_SECONDS", 0.1)
    leader.direct_stream = name
    async with serving(plain) as daemon:
        await asyncio.to_thread(wait_until, lambda: daemon.reader.copies.strangers)
        checks = {check.name: check for check in assess(daemon.facts())}
        assert checks["reads"].status == "warn"
        assert told in (checks["reads"].reason or "")
        assert b'copies_wanting_total{kind="stranger"} 1.0' in daemon.metrics.text()


@pytest.mark.parametrize(
    ("start", "category", "name", "has_one", "next_offset"),
    [
        (12, "base", "hermes", False, 12),
        (15, "initsync", "hermes", False, 16),
        (15, "initsync", "backup", False, 15),  # nobody shows it
        (15, "initsync", "backup", True, 16),  # but one has led for long enough
        (15, "nothing", "hermes", False, 15),
        (15, "nothing", "hermes", True, 16),
    ],
)
async def test_that_a_leader_finds_nothing_more_of_a_category_is_no_end_alone(
    monkeypatch: pytest.MonkeyPatch,
    plain: NatsProcess,
    leader: Leader,
    *,
    start: int,
    category: str,
    name: str,
    has_one: bool,
    next_offset: int,
) -> None:
    """For a moment an old leader answers beside the one that named the stream's end."""
    leader.store("hermes.initsync", BLOCK, b"14")
    leader.store("hermes.base", BLOCK, b"15")
    leader.finds_nothing = True
    leader.direct_stream = name
    async with serving(plain) as daemon:
        monkeypatch.setattr(
            daemon.supervisor.monitor, "has_one_leader", lambda: has_one
        )
        page = await daemon.reader.read(Query(start, category=category))
        assert (page.events, page.next_offset) == ([], next_offset)


async def test_what_is_pending_proves_nothing(
    plain: NatsProcess, leader: Leader
) -> None:
    """Messages that aged out while a batch was sent are counted in it."""
    leader.pending = 900
    async with serving(plain) as daemon:
        page = await daemon.reader.read(Query(8))
        assert (offsets(page)[-1], page.position.last) == (13, 13)
        assert (await daemon.supervisor.leader.position()).last == 13


async def test_a_page_of_the_leader_passes_its_bound_by_one_event(
    plain: NatsProcess, leader: Leader
) -> None:
    leader.is_silent = True
    leader.store("hermes.base", BLOCK, b"")
    for _ in range(8):
        leader.store("hermes.base", BLOCK, b"x" * 1000)
    async with serving(plain) as daemon:
        page = await daemon.reader.read(Query(8, max_bytes=1500))
        assert offsets(page) == [*range(8, 17)]


async def test_what_a_copy_has_beyond_the_leaders_word_is_given_to_nobody_who_waits(
    plain: NatsProcess, leader: Leader
) -> None:
    leader.lag = 3  # it knows nothing of 11 to 13
    async with serving(plain) as daemon:
        page = await daemon.reader.next_page(Query(9))
        assert page is not None
        assert (offsets(page), page.next_offset) == ([9, 10], 11)
        assert offsets(await daemon.reader.read(Query(10))) == [10, 11, 12, 13]
        assert await daemon.reader.next_page(Query(12)) is None
        daemon.supervisor.monitor.acknowledged(12)
        page = await daemon.reader.next_page(Query(12))
        assert page is not None
        assert offsets(page) == [12]


async def test_a_copy_that_has_nothing_ends_no_waiting(
    plain: NatsProcess, leader: Leader
) -> None:
    async with serving(plain) as daemon:
        assert await daemon.reader.next_page(Query(14)) is None
        leader.direct_stream = "backup"
        assert await daemon.reader.next_page(Query(13)) is None
        assert daemon.reader.copies.strangers == 1
