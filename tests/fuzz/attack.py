# SPDX-License-Identifier: Apache-2.0
"""Throws bad requests at a running sidecar, and good ones between them."""

from __future__ import annotations

import asyncio
import re
import uuid
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from support.process import memory_kib
from support.sidecar import event, last_offset, post

from .inputs import Bad, bad_request

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    import httpx
    from support.sidecar import SidecarProcess

BATCH = 50
"""How many are under way at once."""

ANSWER_SECONDS = 0.05
"""How long an answer is waited for; whoever got none then half-closes."""

HANG_SECONDS = 20.0
"""How long a half-closed connection may stay open."""

_STATUS = re.compile(rb"^HTTP/1\.1 (\d{3})[ \r]", re.MULTILINE)
_PROMISES = {
    *(100, 200, 400, 404, 405, 408, 409, 410, 411, 412, 413, 415, 421, 422, 428),
    *(429, 503),
}
"""What a bad request may be answered with: no 500, nor 201."""


class Attack:
    """Bad and good requests against one sidecar, and what came of them."""

    def __init__(self, sidecar: SidecarProcess, http: httpx.Client) -> None:
        self._sidecar = sidecar
        self._http = http
        self._first = last_offset(http) + 1
        self._tcp_port = sidecar.tcp_port
        self.good: list[str] = []
        self.statuses: Counter[str] = Counter()
        self.kinds: Counter[str] = Counter()

    async def throw(self, bad: Bad, *, over_tcp: bool = False) -> None:
        """Send one bad request and see its connection closed."""
        self.kinds[bad.kind] += 1
        reader, writer = await self.connect(over_tcp=over_tcp)
        answers = bytearray()
        try:
            async with asyncio.timeout(HANG_SECONDS):
                await _send(bad, reader, writer, answers)
        except TimeoutError:
            raise AssertionError(f"a hang: {bad}") from None
        except (OSError, RuntimeError):  # refused before it was all written
            self.statuses["cut"] += 1
        finally:
            writer.transport.abort()
        statuses = [int(status) for status in _STATUS.findall(answers)]
        assert _PROMISES.issuperset(statuses), (bad, answers)
        self.statuses.update(list(map(str, statuses)) or ["none"])

    async def connect(
        self, *, over_tcp: bool
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if over_tcp:
            return await asyncio.open_connection("127.0.0.1", self._tcp_port)
        return await asyncio.open_unix_connection(str(self._sidecar.socket))

    async def throw_many(
        self, random: Random, inputs: int, on_batch: Callable[[int], None]
    ) -> None:
        """Throw this many, a batch at a time, with a good request after each."""
        for start in range(0, inputs, BATCH):
            batch = [bad_request(random) for _ in range(min(BATCH, inputs - start))]
            async with asyncio.TaskGroup() as group:
                for number, bad in enumerate(batch):
                    group.create_task(self.throw(bad, over_tcp=number % 8 == 0))
            self.send_good()
            on_batch(start + len(batch))

    def send_good(self) -> None:
        """Store one event after the last; it must become the very next offset."""
        body = event(objpkey=f"good-{uuid.uuid4()}")
        last = self._first + len(self.good) - 1
        answer = post(self._http, body, last)
        stored = answer.status_code, answer.json().get("offset")
        assert stored == (201, last + 1), answer.text
        self.good.append(body.decode())

    def check(self) -> None:
        """See that the stream holds the good events alone, and the log no error."""
        assert self._stored() == self.good
        errors = [
            row
            for row in self._sidecar.rows()
            if row["level"] in ("error", "critical") and not _is_lost_answer(row)
        ]
        assert errors == [], errors[:3]
        assert self._http.get("/health").status_code == 200

    def _stored(self) -> list[str]:
        stored: list[str] = []
        query = {"offset": self._first, "limit": 5000}
        while True:
            page = self._http.get("/v1/events", params=query).raise_for_status().json()
            if not page["events"]:
                return stored
            stored += [row["data"] for row in page["events"]]
            query["offset"] = page["next_offset"]

    def rss_kib(self) -> int:
        """Give the memory that the sidecar holds."""
        return memory_kib(self._sidecar.running.pid)


def _is_lost_answer(row: dict[str, Any]) -> bool:
    """Tell whether uvicorn closed a connection under an answer that was on its way."""
    return str(row["event"]).startswith("ASGI callable returned without completing")


async def _send(
    bad: Bad,
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    answers: bytearray,
) -> None:
    for piece in bad.pieces:
        writer.write(piece)
        await writer.drain()
    if bad.end == "cut":
        return
    if bad.end == "wait":
        with suppress(TimeoutError):
            async with asyncio.timeout(ANSWER_SECONDS):
                answers += await reader.read(65536)
    writer.write_eof()
    while data := await reader.read(65536):
        answers += data
