# SPDX-License-Identifier: Apache-2.0
"""Readers that wait at the end: what they cost NATS, and that an event wakes them."""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import nats as nats_py
from support.process import wait_until
from support.sidecar import event, last_offset, post, sidecar_on

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from support.nats import NatsProcess
    from support.sidecar import SidecarProcess

READERS = 20
INFO, GET = "$JS.API.STREAM.INFO", "$JS.API.DIRECT.GET"


@asynccontextmanager
async def asked(nats: NatsProcess, name: str) -> AsyncIterator[Counter[str]]:
    """Count the requests for this stream."""
    seen: Counter[str] = Counter()
    client = await nats_py.connect(nats.url)

    async def count(message: object) -> None:
        seen[message.subject.removesuffix(f".{name}")] += 1  # type: ignore[attr-defined]

    for subject in (INFO, GET):
        await client.subscribe(f"{subject}.{name}", cb=count)
    await client.flush()
    try:
        yield seen
    finally:
        await client.close()


def wait_at(process: SidecarProcess, offset: int) -> list[int]:
    with process.client() as http:
        query = {"offset": offset, "wait": 20}
        page = http.get("/v1/events", params=query).json()
        return [row["offset"] for row in page["events"]]


def waiting(process: SidecarProcess) -> bool:
    with process.client() as http:
        text = http.get("/metrics").text
    return f"hermes_sidecar_readers_waiting {READERS}.0" in text


async def test_readers_who_wait_share_one_question_a_second_and_one_page(
    nats: NatsProcess, tmp_path: Path
) -> None:
    name = f"w{uuid.uuid4().hex[:12]}"
    with (
        sidecar_on(nats, tmp_path / "writing", name, role="producer") as writing,
        sidecar_on(nats, tmp_path / "reading", name, role="consumer") as reading,
        writing.client() as http,
        ThreadPoolExecutor(READERS) as pool,
    ):
        last = post(http, event()).json()["offset"]
        pages = [pool.submit(wait_at, reading, last + 1) for _ in range(READERS)]
        await asyncio.to_thread(wait_until, lambda: waiting(reading))
        async with asked(nats, name) as seen:
            await asyncio.sleep(3)  # to count what is asked meanwhile
            idle = seen.copy()
            assert post(http, event()).json()["offset"] == last + 1
            for page in pages:
                assert await asyncio.to_thread(page.result) == [last + 1]
            await asyncio.sleep(0.1)
        # Of both sidecars, each with one connection; 60 before there was a word.
        assert 2 <= idle[INFO] <= 10
        assert seen[GET] - idle[GET] <= READERS // 4
        assert last_offset(http) == last + 1
