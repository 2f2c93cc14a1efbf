# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: T201 - its lines are read by the benchmark
"""A process of many readers that wait at a sidecar's socket for the next event."""

from __future__ import annotations

import asyncio
import sys


async def wait(socket: str, query: str) -> None:
    reader, writer = await asyncio.open_unix_connection(socket)
    request = f"GET /v1/events?offset=next&wait=20{query} HTTP/1.1\r\nHost: x\r\n\r\n"
    while True:
        writer.write(request.encode())
        head = await reader.readuntil(b"\r\n\r\n")
        assert b" 200 " in head.split(b"\r\n", 1)[0], head
        size = int(head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0])
        await reader.readexactly(size)


async def main() -> None:
    _, socket, count, query = sys.argv
    tasks = [asyncio.create_task(wait(socket, query)) for _ in range(int(count))]
    await asyncio.sleep(0.3)
    print("waiting", flush=True)
    await asyncio.gather(*tasks)


asyncio.run(main())
