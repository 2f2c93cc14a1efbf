# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: T201 - its lines are read by the benchmark
"""A process of many clients that follow: they ask as the consumer plugin does.

Each waits at an offset, and again behind what it was given. Once standard input ends,
it prints each offset and the moment at which a client had it.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from itertools import repeat


async def follow(
    socket: str, name: str, offset: int, seen: list[tuple[int, float]]
) -> None:
    reader, writer = await asyncio.open_unix_connection(socket)
    while True:
        query = f"offset={offset}&limit=500&max_bytes=262144&wait=20.000"
        writer.write(
            f"GET /v1/events?{query} HTTP/1.1\r\nHost: localhost\r\n"
            f"User-Agent: {name}\r\n\r\n".encode()
        )
        head = await reader.readuntil(b"\r\n\r\n")
        assert b" 200 " in head.split(b"\r\n", 1)[0], head
        size = int(head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0])
        page = await reader.readexactly(size)
        now = time.monotonic()
        # A JSON parser for each of three hundred would be what is measured.
        following = int(page.rpartition(b'"next_offset": ')[2].partition(b",")[0])
        seen.extend(zip(range(offset, following), repeat(now)))
        offset = following


async def main() -> None:
    _, socket, count, offset = sys.argv
    seen: list[tuple[int, float]] = []
    tasks = {
        asyncio.create_task(follow(socket, f"client-{number}", int(offset), seen))
        for number in range(int(count))
    }
    print("waiting", flush=True)
    end = asyncio.create_task(asyncio.to_thread(sys.stdin.read))
    await asyncio.wait({end, *tasks}, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        if task.done():
            task.result()
        task.cancel()
    print(json.dumps(seen))


asyncio.run(main())
