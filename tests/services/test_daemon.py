# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import asyncio
from contextlib import suppress

from sidecar.services.daemon import end


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
