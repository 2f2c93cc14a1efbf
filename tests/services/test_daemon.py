# SPDX-License-Identifier: Apache-2.0
"""The daemon: what it looks at, and how it ends."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from support.process import wait_until

from sidecar.model.health import Check
from sidecar.services.daemon import Daemon, end
from sidecar.settings import Settings


async def test_what_loses_a_cancellation_is_ended_all_the_same() -> None:
    async def lose_the_first() -> None:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(60)
        await asyncio.sleep(60)

    tasks = {asyncio.create_task(each) for each in (lose_the_first(), lose_the_first())}
    await asyncio.sleep(0)
    async with asyncio.timeout(5):
        await end(tasks)
    assert all(task.cancelled() for task in tasks)


async def test_one_that_ended_by_itself_hinders_nothing() -> None:
    task = asyncio.create_task(asyncio.sleep(0))
    await task
    async with asyncio.timeout(5):
        await end({task})


async def test_it_looks_at_its_checks_though_nobody_asks() -> None:
    settings = Settings(nats_url=("nats://127.0.0.1:1",))
    daemon = Daemon(settings, settings.nats_server)
    running = asyncio.create_task(daemon.run())
    await asyncio.to_thread(wait_until, lambda: "stream" in daemon._since._began)
    await end({running})
    (failing,) = daemon.failing_since([Check("stream", "Down.")]).items()
    assert failing[0] == "stream"
    assert failing[1] > 0
