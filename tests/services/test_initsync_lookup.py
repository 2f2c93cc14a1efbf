# SPDX-License-Identifier: Apache-2.0
"""The retention guard on real streams: what it says, for how many requests."""

from __future__ import annotations

import asyncio
import time
import uuid
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from support.initsync_lookup import (
    ends,
    fill,
    fresh_verdict,
    running_bus,
    running_daemon,
    scanned,
    store,
)
from support.initsyncs import histories
from support.jetstream import RawNatsClient
from support.process import wait_until
from support.sidecar import SidecarProcess, event, post

from sidecar.errors import Problem
from sidecar.jetstream.callbacks import await_callback
from sidecar.model.decisions import Stored
from sidecar.model.event import LAST, parse_event
from sidecar.model.initsync import Verdict
from sidecar.model.scan import Scan, scan_at
from sidecar.services.initsync_lookup import RetentionGuard

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import httpx
    from support.nats import NatsProcess

DAY_NANOSECONDS = 86_400 * 10**9
FIRST = 1000


@pytest.fixture
def operator(nats: NatsProcess) -> Iterator[RawNatsClient]:
    with RawNatsClient(nats.port) as one:
        yield one


@pytest.fixture
def stream(request: pytest.FixtureRequest, operator: RawNatsClient) -> Iterator[str]:
    """Make an empty stream of the test's own, which may be purged."""
    name = f"r{abs(hash(request.node.name))}"
    operator.create(name, first_seq=FIRST, deny_purge=False)
    yield name
    operator.delete(name)


async def test_a_fresh_start_says_what_a_scan_finds_in_two_hundred_histories(
    nats: NatsProcess, operator: RawNatsClient, stream: str
) -> None:
    async with running_daemon(nats, stream) as daemon:
        last = FIRST - 1
        for number, letters in enumerate(histories(200)):
            for place, letter in enumerate(letters):
                known = LAST if place % 7 == 3 else last
                stored = await store(daemon, letter, known)
                assert stored == Stored(last + 1, duplicate=False)
                last += 1
            if number % 3 == 0:
                # What retention does, down to the middle of what has just been stored.
                below = last - (number % len(letters))
                operator.api(f"STREAM.PURGE.{stream}", {"seq": below})
            found = ends(await fresh_verdict(nats, stream))
            assert found == await scanned(daemon.supervisor), letters


async def test_each_initsync_of_four_hundred_is_told_while_retention_takes_them(
    nats: NatsProcess, operator: RawNatsClient, stream: str
) -> None:
    fill(nats, stream, "SaaE" * 400, Scan())
    async with running_bus(nats, stream) as bus:
        for below in (FIRST + 1, FIRST + 797, FIRST + 1596, FIRST + 1597, FIRST + 1600):
            operator.api(f"STREAM.PURGE.{stream}", {"seq": below})
            info = await bus.leader.stream_info()
            is_held = below <= FIRST + 1596
            expected = (FIRST + 1596, FIRST + 1599) if is_held else None
            assert ends(await RetentionGuard(bus).known(info)) == expected


@pytest.mark.parametrize(
    ("without", "then", "found"),
    [
        ("SaE", "", (None, None)),
        ("SaE", "S", ("open=1003,0; last=?", None)),
        ("SaE", "Sa", ("open=1003,1; last=?", None)),
        ("SaE", "E", (None, None)),
        ("Sa", "aE", (None, None)),
        ("SaE", "SaE", ("last=1003-1005,1", (1003, 1005))),
        ("aaa", "bSEb", ("last=1004-1005,0", (1004, 1005))),
        ("bb", "", (None, ())),
        ("bb", "S", ("open=1002,0", ())),
    ],
)
async def test_without_the_header_it_is_unknown_until_an_initsync_was_whole(
    nats: NatsProcess,
    stream: str,
    without: str,
    then: str,
    found: tuple[str | None, tuple[int, ...] | None],
) -> None:
    header, verdict = found
    fill(nats, stream, without, None)
    async with running_daemon(nats, stream) as daemon:
        for letter in then:
            assert isinstance(await store(daemon, letter, LAST), Stored)
        newest = await daemon.supervisor.leader.last_of("initsync")
        assert (newest and newest.initsync) == header
    said = await fresh_verdict(nats, stream)
    if verdict is None:
        assert said == Verdict(is_known=False)
    else:
        assert ends(said) == (verdict or None)


async def test_what_another_stream_was_copied_from_is_not_believed(
    nats: NatsProcess, operator: RawNatsClient, stream: str
) -> None:
    fill(nats, stream, "bSbbEb", None)
    for header in ("last=1000-1004,1", "last=1001-1003,1", "last=1001-1009,7"):
        headers = {"Hermes-Event-Type": "added", "Hermes-Initsync": header}
        operator.publish(f"{stream}.initsync", b"{}", headers)
        assert await fresh_verdict(nats, stream) == Verdict(is_known=False)


async def test_another_producers_initsync_between_is_taken_in(
    nats: NatsProcess, stream: str
) -> None:
    """Each learns from the stream what the other one stored."""
    async with (
        running_daemon(nats, stream) as one,
        running_daemon(nats, stream) as other,
    ):
        for daemon, letter in zip([one, other] * 8, "SaSaEbaSabaEESab", strict=True):
            last = (await one.supervisor.leader.position()).last
            assert isinstance(await store(daemon, letter, last), Stored)
            assert ends(await fresh_verdict(nats, stream)) == await scanned(
                one.supervisor
            )
        newest = await one.supervisor.leader.last_of("initsync")
        assert scan_at(newest).header == "open=1013,1; last=1007-1011,2"


async def test_within_an_initsync_nothing_is_asked_before_an_event(
    nats: NatsProcess, stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_daemon(nats, stream) as daemon:
        asked: list[int] = []
        scan_at = daemon.supervisor.leader.scan_at

        async def counted(last: int) -> Scan | None:
            asked.append(last)
            return await scan_at(last)

        monkeypatch.setattr(daemon.supervisor.leader, "scan_at", counted)
        for place, letter in enumerate("S" + "a" * 40 + "E"):
            last = FIRST - 1 + place
            assert await store(daemon, letter, last) == Stored(last + 1, False)
        assert len(asked) < 10  # one, where no event waits for a second


async def test_who_comes_too_late_or_too_early_learns_it_as_with_any_event(
    nats: NatsProcess, stream: str
) -> None:
    async with running_daemon(nats, stream) as daemon:
        key = str(uuid.uuid4())
        assert await store(daemon, "S", FIRST - 1, key) == Stored(FIRST, False)
        assert await store(daemon, "S", FIRST - 1, key) == Stored(FIRST, True)
        codes = [
            ("a", FIRST - 1, key, "key_reused"),
            ("S", FIRST - 1, None, "precondition_failed"),
            ("S", FIRST - 2, None, "offset_gone"),
        ]
        for letter, last, of_key, code in codes:
            answer = await store(daemon, letter, last, of_key)
            assert isinstance(answer, Problem)
            assert answer.cause.code == code
        assert (await daemon.supervisor.leader.position()).last == FIRST


def check(http: httpx.Client) -> dict[str, Any]:
    checks = http.get("/health").json()["checks"]
    (found,) = [each for each in checks if each["name"] == "initsync"]
    return dict(found)


def known(http: httpx.Client) -> dict[str, Any] | None:
    answer = http.get("/v1/stream").raise_for_status().json()
    found: dict[str, Any] | None = answer["last_complete_initsync"]
    return found


def rows(sidecar: SidecarProcess, name: str) -> list[dict[str, Any]]:
    return [row for row in sidecar.rows() if row["event"] == name]


def initsync(http: httpx.Client, objects: int) -> int:
    """Send an initsync and give the offset of its start."""
    kinds = ["init-start", *["added"] * objects, "init-stop"]
    answers = [post(http, event("initsync", eventtype=kind)) for kind in kinds]
    return int(answers[0].json()["offset"])


async def test_the_header_counts_in_the_limit_of_a_message(
    nats: NatsProcess, operator: RawNatsClient, stream: str
) -> None:
    operator.update(stream, max_msg_size=500)
    async with running_daemon(nats, stream) as daemon:
        sizes = {}
        for category in ("base", "initsync"):
            body = event(category, eventtype="init-start", objattrs={"x": "y" * 500})
            start = partial(daemon.publisher.start, parse_event(body))
            answer = await await_callback(partial(start, str(uuid.uuid4()), FIRST - 1))
            assert isinstance(answer, Problem)
            assert answer.cause.code == "event_too_large"
            assert answer.members["limit_bytes"] == 500
            size_bytes = answer.members["size_bytes"]
            assert isinstance(size_bytes, int)
            sizes[category] = size_bytes - len(body)
        header = f"Hermes-Initsync: open={FIRST},0\r\n"
        assert sizes["initsync"] - sizes["base"] == len(header)


async def test_what_is_too_large_is_told_so_though_its_offset_is_taken(
    nats: NatsProcess, operator: RawNatsClient, stream: str
) -> None:
    """A plugin asks so whether an event that was refused could be stored by now."""
    operator.update(stream, max_msg_size=500)
    async with running_daemon(nats, stream) as daemon:
        codes = []
        for size, kind in ((0, "init-start"), (500, "added")):
            body = event("initsync", eventtype=kind, objattrs={"x": "y" * size})
            start = partial(daemon.publisher.start, parse_event(body))
            answer = await await_callback(partial(start, str(uuid.uuid4()), FIRST - 1))
            codes.append(answer.cause.code if isinstance(answer, Problem) else "")
        assert codes == ["", "event_too_large"]


def test_it_is_shown_and_warned_of_before_it_leaves_and_when_there_is_none(
    nats: NatsProcess, operator: RawNatsClient, stream: str, tmp_path: Path
) -> None:
    settings = {"nats_url": nats.url, "stream": stream, "subject_prefix": stream}
    with (
        SidecarProcess(tmp_path / "one", **settings) as sidecar,
        sidecar.client() as http,
    ):
        wait_until(lambda: check(http)["status"] == "warn")
        assert "no complete initsync" in check(http)["reason"]
        assert http.get("/health").status_code == 200
        assert http.get("/v1/stream").json()["last_complete_initsync"] is None

        start = initsync(http, 3)
        shown = http.get("/v1/stream").json()["last_complete_initsync"]
        assert (shown["start_offset"], shown["stop_offset"]) == (start, start + 4)
        assert shown["objects"] == 3
        assert shown["expires"] is None
        assert shown["started"] <= shown["stopped"]
        assert check(http)["status"] == "pass"
        wait_until(lambda: rows(sidecar, "initsync_complete"))
        row = rows(sidecar, "initsync_complete")[0]
        assert row["took_seconds"] > 0
        rate = row["events_per_second"]
        assert rate == pytest.approx(5 / row["took_seconds"], rel=0.5)

        operator.update(stream, max_age=4 * DAY_NANOSECONDS)

        def expires() -> bool:
            stream = http.get("/v1/stream").json()
            return stream["last_complete_initsync"]["expires"] is not None

        wait_until(expires)
        assert check(http)["status"] == "pass"
        # Warned of in the last quarter: longer than any pause of the machine.
        operator.update(stream, max_age=12 * 10**9, duplicate_window=10**9)
        wait_until(lambda: check(http)["status"] == "warn")
        assert "expires soon" in check(http)["reason"]
        wait_until(lambda: rows(sidecar, "initsync_expiring"))
        wait_until(lambda: "no complete" in str(check(http)["reason"]))
        wait_until(lambda: len(rows(sidecar, "initsync_missing")) == 2)
        assert len(rows(sidecar, "initsync_expiring")) == 1


def test_a_restarted_sidecar_and_one_of_each_role_know_it(
    nats: NatsProcess, stream: str, tmp_path: Path
) -> None:
    fill(nats, stream, "bSaaaEb", Scan())
    settings = {"nats_url": nats.url, "stream": stream, "subject_prefix": stream}
    for role in ("producer", "consumer"):
        with (
            SidecarProcess(tmp_path / role, role=role, **settings) as sidecar,
            sidecar.client() as http,
        ):
            wait_until(partial(known, http))
            shown = known(http) or {}
            assert (shown["start_offset"], shown["objects"]) == (1001, 3)


async def test_a_stream_made_anew_is_asked_anew(
    nats: NatsProcess, operator: RawNatsClient, stream: str
) -> None:
    fill(nats, stream, "SaE", Scan())
    async with running_bus(nats, stream) as bus:
        guard = RetentionGuard(bus)
        assert guard.verdict is None
        running = asyncio.create_task(guard.run())
        await until(lambda: guard.verdict is not None)
        assert guard.verdict is not None
        assert ends(guard.verdict) == (FIRST, FIRST + 2)
        operator.delete(stream)
        operator.create(stream, first_seq=5000, deny_purge=False)
        await until(lambda: guard.verdict == Verdict())
        running.cancel()


async def until(is_so: Callable[[], bool]) -> None:
    await asyncio.to_thread(wait_until, is_so)


async def test_a_start_asks_little_and_then_once_a_second_while_the_stream_moves(
    nats: NatsProcess, operator: RawNatsClient, stream: str
) -> None:
    """A first initsync goes on for hours, and thirty sidecars look on."""
    fill(nats, stream, "SaE" + "Saaaaa" * 20, Scan())
    with RawNatsClient(nats.port) as listener:
        listener.answer_at("$JS.API.>")
        asked: list[str] = []

        def listen() -> None:
            with suppress(AssertionError, OSError, ValueError):
                while True:
                    asked.append(listener.receive_whole()[0])

        listening = asyncio.create_task(asyncio.to_thread(listen))
        async with running_bus(nats, stream) as bus:
            guard = RetentionGuard(bus)
            running = asyncio.create_task(guard.run())
            await until(lambda: guard.verdict is not None)
            assert len(asked) <= 6
            asked.clear()
            began = time.monotonic()
            for _ in range(30):
                operator.publish(f"{stream}.base", b"{}")
                await asyncio.sleep(0.1)
            seconds = time.monotonic() - began
            reads = [subject for subject in asked if "MSG.GET" in subject]
            assert 1 <= len(reads) <= seconds + 1
            await asyncio.sleep(2.5)  # what was stored last is noticed by now
            asked.clear()
            await asyncio.sleep(2)
            assert not [subject for subject in asked if "MSG.GET" in subject]
            running.cancel()
        listener.shut_down()
        await listening
