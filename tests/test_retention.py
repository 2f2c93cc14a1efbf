# SPDX-License-Identifier: Apache-2.0
"""The retention guard on real streams: what it finds, how soon, and what it says."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from parts.jetstream import Operator
from parts.process import wait_until
from parts.sidecar import SidecarProcess, event, post

from sidecar.bus import Bus
from sidecar.login import NatsServer
from sidecar.retention import SCANNED_EVENTS, RetentionGuard, Search
from sidecar.stream import StreamPlan

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    import httpx
    from parts.nats import NatsProcess

    from sidecar.initsync import Initsync

LONG = SCANNED_EVENTS * 3
PAUSE_SECONDS = 1.6
KINDS = {"S": "init-start", "E": "init-stop", "a": "added"}
DAY_NANOSECONDS = 86_400 * 10**9


@pytest.fixture
def operator(nats: NatsProcess) -> Iterator[Operator]:
    with Operator(nats.port) as one:
        yield one


@pytest.fixture
def stream(request: pytest.FixtureRequest, operator: Operator) -> Iterator[str]:
    """Make an empty stream of the test's own."""
    name = f"r{abs(hash(request.node.name))}"
    operator.create(name, first_seq=1000)
    yield name
    operator.delete(name)


def fill(operator: Operator, stream: str, recipe: str) -> None:
    """Store what a recipe says: S a E, A for many a, b and B of base, | a pause."""
    for letter in recipe:
        match letter:
            case "|":
                time.sleep(PAUSE_SECONDS)  # the pause is what is stored
            case "A":
                operator.publish_many(f"{stream}.initsync", "added", LONG)
            case "B":
                operator.publish_many(f"{stream}.base", "modified", LONG)
            case "b":
                operator.publish_many(f"{stream}.base", "modified", 1)
            case _:
                operator.publish_many(f"{stream}.initsync", KINDS[letter], 1)


@asynccontextmanager
async def running_bus(nats: NatsProcess, stream: str) -> AsyncIterator[Bus]:
    bus = Bus("test", NatsServer((nats.url,)), StreamPlan(stream, stream, 1, 0))
    running = asyncio.create_task(bus.run())
    try:
        await bus.wait()
        yield bus
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running


async def search(
    nats: NatsProcess, stream: str, known: Initsync | None = None
) -> tuple[Initsync | None, float]:
    """Search as the daemon does, and say how many seconds it took."""
    async with running_bus(nats, stream) as bus:
        position = await bus.position()
        began = time.monotonic()
        found = await Search(bus).run(position, known)
        return found, time.monotonic() - began


N = LONG


@pytest.mark.parametrize(
    ("recipe", "expected"),
    [
        ("", None),
        ("B", None),
        ("SaaE", (1000, 1003, 2)),
        ("bSaaEb", (1001, 1004, 2)),
        ("SaESaa", (1000, 1002, 1)),
        ("SA", None),
        ("SAE", (1000, 1001 + N, N)),
        ("bSAEB", (1001, 1002 + N, N)),
        ("BSAE", (1000 + N, 1001 + 2 * N, N)),
        ("SAEbSA", (1000, 1001 + N, N)),
        ("SAEbSAE", (1003 + N, 1004 + 2 * N, N)),
        ("SAEbSAbSAbb", (1000, 1001 + N, N)),
        ("SAE|SAE", (1002 + N, 1003 + 2 * N, N)),
        ("SAE|SAE|SA", (1002 + N, 1003 + 2 * N, N)),
        ("SA|SAE", (1001 + N, 1002 + 2 * N, N)),
        ("SAE|SA|SA", (1000, 1001 + N, N)),
        ("SAbAE", (1000, 1002 + 2 * N, None)),
        ("AE", None),
    ],
)
async def test_it_finds_the_last_complete_initsync(
    nats: NatsProcess,
    operator: Operator,
    stream: str,
    recipe: str,
    expected: tuple[int, int, int | None] | None,
) -> None:
    fill(operator, stream, recipe)
    found, _ = await search(nats, stream)
    given = found and (found.start.offset, found.stop.offset, found.objects)
    assert given == expected


async def test_what_is_known_spares_the_search_before_it(
    nats: NatsProcess, operator: Operator, stream: str
) -> None:
    fill(operator, stream, "SAE")
    known, _ = await search(nats, stream)
    assert known is not None
    fill(operator, stream, "SA")
    assert (await search(nats, stream, known))[0] == known
    fill(operator, stream, "E")
    found, _ = await search(nats, stream, known)
    assert found is not None
    assert (found.start.offset, found.objects) == (known.stop.offset + 1, LONG)


async def test_it_is_found_in_less_than_a_second_on_a_million_events(
    nats: NatsProcess, operator: Operator, stream: str
) -> None:
    for category, kind, count in (
        ("base", "modified", 300_000),
        ("initsync", "init-start", 1),
        ("initsync", "added", 400_000),
        ("initsync", "init-stop", 1),
        ("base", "modified", 200_000),
        ("initsync", "init-start", 1),
        ("initsync", "added", 100_000),
    ):
        operator.publish_many(f"{stream}.{category}", kind, count)
    assert operator.state(stream)["messages"] == 1_000_003
    tries = [await search(nats, stream) for _ in range(3)]
    for found, _ in tries:
        assert found is not None
        assert (found.start.offset, found.objects) == (301_000, 400_000)
    assert min(seconds for _, seconds in tries) < 1  # of a machine that is shared


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


def test_it_is_shown_and_warned_of_before_it_leaves_and_when_there_is_none(
    nats: NatsProcess, operator: Operator, stream: str, tmp_path: Path
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

        operator.update(stream, max_age=4 * DAY_NANOSECONDS)

        def expires() -> bool:
            stream = http.get("/v1/stream").json()
            return stream["last_complete_initsync"]["expires"] is not None

        wait_until(expires)
        assert check(http)["status"] == "pass"
        # Warned of in the last quarter: longer than any pause of the machine.
        operator.update(stream, max_age=12 * 10**9, duplicate_window=10**9)
        wait_until(lambda: check(http)["status"] == "warn")
        assert "leaves the stream soon" in check(http)["reason"]
        wait_until(lambda: rows(sidecar, "initsync_expiring"))
        wait_until(lambda: "no complete" in str(check(http)["reason"]))
        assert len(rows(sidecar, "initsync_missing")) == 2
        assert len(rows(sidecar, "initsync_expiring")) == 1


def test_a_restarted_sidecar_and_one_of_each_role_know_it(
    nats: NatsProcess, operator: Operator, stream: str, tmp_path: Path
) -> None:
    fill(operator, stream, "bSaaaEb")
    settings = {"nats_url": nats.url, "stream": stream, "subject_prefix": stream}
    for role in ("producer", "consumer"):
        with (
            SidecarProcess(tmp_path / role, role=role, **settings) as sidecar,
            sidecar.client() as http,
        ):
            wait_until(partial(known, http))
            shown = known(http) or {}
            assert (shown["start_offset"], shown["objects"]) == (1001, 3)


async def test_a_stream_made_anew_is_searched_anew(
    nats: NatsProcess, operator: Operator, stream: str
) -> None:
    fill(operator, stream, "SaE")
    async with running_bus(nats, stream) as bus:
        guard = RetentionGuard(bus)
        assert not guard.has_looked
        assert await guard.look(await bus.position()) is not None
        assert guard.has_looked
        operator.delete(stream)
        operator.create(stream, first_seq=5000)
        assert await guard.look(await bus.position()) is None
