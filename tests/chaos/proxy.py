# SPDX-License-Identifier: Apache-2.0
"""A proxy that hurts: it cuts, stalls, delays, swallows and delivers late, on command.

It runs as a process of its own (`python -m chaos.proxy SPEC`), so that it does not
share a thread with what it hurts. Orders come as JSON lines on stdin, what happened
goes out as JSON lines on stdout; it ends when stdin does.

A *gate* is one place to listen. A strike is armed at a gate and falls on the next
publish that passes: a POST to the sidecar, or an HPUB to NATS.

Long because it is one process: gates, links and strikes are of no use alone.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import signal
import sys
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import uvloop

from .forge import Forger

if TYPE_CHECKING:
    from collections.abc import Callable

_CHUNK = 1 << 16
_UNNUMBERED = -1
_ANSWERS = {("after_body", "stall"), ("after_body", "swallow")}
_LATE_ANSWER_SECONDS = 5.0
_ROUTE_NAME = re.compile(rb'"(?:server_)?name":"(n[0-9])"')
_INFO = re.compile(
    rb'MSG (\S+ \S+) (\d+)\r\n(?=\{"type":"io\.nats\.jetstream\.api\.v1\.stream_info_r)'
)
_IF_MATCH = re.compile(rb'(?i)if-match: "\d+"')


@dataclass(frozen=True)
class Frame:
    """Where one publish or one answer lies in a buffer."""

    start: int
    body: int
    end: int


def http_frame(buffer: bytes) -> Frame | None:
    """Find a whole HTTP message at the start of the buffer."""
    head = buffer.find(b"\r\n\r\n")
    if head < 0:
        return None
    length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", buffer[: head + 2])
    end = head + 4 + (int(length[1]) if length else 0)
    return Frame(0, head + 4, end) if len(buffer) >= end else None


def nats_frame(buffer: bytes, begins: bytes) -> Frame | None:
    """Find a whole NATS message whose line begins like this."""
    start = buffer.find(begins)
    line_end = buffer.find(b"\r\n", start)
    if start < 0 or line_end < 0:
        return None
    end = line_end + 2 + int(buffer[start:line_end].split()[-1]) + 2
    return Frame(start, line_end + 2, end) if len(buffer) >= end else None


@dataclass
class Strike:
    """What is to happen to one publish."""

    id: int
    place: str
    action: str
    seconds: float = 0.0
    fraction: float = 0.5
    spares: str = ""

    def offset(self, frame: Frame) -> int:
        """Say how many bytes still pass before it falls."""
        match self.place:
            case "before_request":
                return frame.start
            case "in_body":
                size = frame.end - frame.body
                return frame.body + max(1, min(size - 1, int(size * self.fraction)))
            case _:
                return frame.end


class Proxy:
    """All gates, and what they have in common."""

    def __init__(self) -> None:
        self.gates: dict[str, Gate] = {}
        self.strikes: dict[str, Strike] = {}
        self.delay_seconds: dict[str, float] = {}
        self.rates: dict[str, float] = {}  # bytes per second, all connections together
        self._free_at: dict[str, float] = {}
        self.loss: dict[str, float] = {}
        self.spares = ""  # the status of answers that are not lost
        self.lagging: dict[str, Any] | None = None  # the state that STREAM.INFO tells
        self.odd_share = 0.0  # of what a server sends at once
        self.forger = Forger(random.Random())  # noqa: S311 - no secret
        self.isolated: str | None = None
        self.joined = asyncio.Event()
        self.joined.set()
        self.flushing = asyncio.Event()
        self.late = 0
        self.links: set[asyncio.Task[None]] = set()

    def report(self, **what: object) -> None:
        print(json.dumps(what), flush=True)  # noqa: T201 - the protocol

    def obey(self, order: dict[str, Any]) -> None:  # noqa: PLR0912 - one each
        match order.pop("op"):
            case "arm":
                kind = order.pop("kind")
                self.strikes[kind] = Strike(**order)
            case "disarm":
                self.strikes.pop(order["kind"], None)
            case "delay":
                self.delay_seconds[order["kind"]] = order["seconds"]
                self.rates[order["kind"]] = order.get("rate", 0)
            case "lose":
                self.loss[order["kind"]] = order["share"]
                self.spares = order.get("spares", "")
            case "lag":
                self.lagging = order["state"]
            case "odd":
                self.odd_share = order["share"]
            case "route":
                for gate in self._of("http"):
                    gate.target = order["target"]
            case "cut":
                for gate in self._of(order["kind"]):
                    gate.cut()
            case "isolate":
                self.isolated = order["node"]
                self.joined.clear()
            case "join":
                self.isolated = None
                self.joined.set()
            case "flush":
                self.flushing.set()
                self.report_if_flushed()

    def line_seconds(self, kind: str, size: int, now: float) -> float:
        """Say when a slow link has let so many bytes through, after what is in line."""
        if not (rate := self.rates.get(kind)):
            return 0.0
        begin = max(now, self._free_at.get(kind, now))
        self._free_at[kind] = begin + size / rate
        return self._free_at[kind] - now

    def strike(self, kind: str) -> Strike | None:
        """Give what falls on the next publish."""
        if kind in self.strikes:
            return self.strikes.pop(kind)
        if random.random() < self.loss.get(kind, 0.0):  # noqa: S311 - no secret
            return Strike(
                _UNNUMBERED, "in_answer", "cut", fraction=0.0, spares=self.spares
            )
        return None

    def _of(self, kind: str) -> list[Gate]:
        return [gate for gate in self.gates.values() if gate.kind == kind]

    def report_if_flushed(self) -> None:
        if self.flushing.is_set() and not self.late:
            self.report(event="flushed")


class Gate:
    """One listener and the places it leads to."""

    def __init__(self, proxy: Proxy, name: str, spec: dict[str, Any]) -> None:
        self.proxy = proxy
        self.name = name
        self.kind: str = spec["kind"]  # http, nats or route
        self.node: str = spec.get("node", "")
        self.listen: str = spec["listen"]
        self.targets: list[str] = spec["targets"]
        self.self_fencing: bool = spec.get("self_fencing", False)
        self.target = 0
        self.open_links: set[Link] = set()
        self.server: asyncio.Server | None = None  # unheld, it would be collected

    async def start(self) -> None:
        if self.listen.startswith("/"):
            self.server = await asyncio.start_unix_server(self._accept, self.listen)
        else:
            port = int(self.listen)
            self.server = await asyncio.start_server(self._accept, "127.0.0.1", port)

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        target = self.targets[self.target]
        if target.startswith("/"):
            return await asyncio.open_unix_connection(target)
        return await asyncio.open_connection("127.0.0.1", int(target))

    def cut(self) -> None:
        for link in list(self.open_links):
            link.close()

    async def _accept(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.proxy.links.add(task)
        try:
            try:
                upstream = await self.connect()
            except OSError:
                writer.transport.abort()
                return
            link = Link(self, reader, writer, *upstream)
            self.open_links.add(link)
            try:
                await link.run()
            finally:
                self.open_links.discard(link)
        finally:
            self.proxy.links.discard(task)


class Link:
    """One connection through a gate."""

    def __init__(
        self,
        gate: Gate,
        near: asyncio.StreamReader,
        near_writer: asyncio.StreamWriter,
        far: asyncio.StreamReader,
        far_writer: asyncio.StreamWriter,
    ) -> None:
        self.gate = gate
        self.near, self.near_writer = near, near_writer
        self.far, self.far_writer = far, far_writer
        self.source = ""
        self.reply = b""
        self.at_answer: Strike | None = None
        self.drops_up = self.drops_down = False
        self.captures: bytearray | None = None

    async def run(self) -> None:
        up = asyncio.create_task(self._guard(self._up()))
        down = asyncio.create_task(self._guard(self._down()))
        await up
        self.close()
        await down

    def close(self) -> None:
        self.near_writer.close()
        self.far_writer.close()

    @staticmethod
    async def _guard(pump: Any) -> None:
        # uvloop raises RuntimeError for a write to a closed transport.
        with suppress(OSError, RuntimeError):
            await pump

    # -- From the caller ---------------------------------------------------------------

    async def _up(self) -> None:
        while chunk := await self.near.read(_CHUNK):
            await self._wait(chunk)
            if self.drops_up:
                continue
            if self._is_publish(chunk) and (
                self.gate.kind in self.gate.proxy.strikes
                or self.gate.proxy.loss.get(self.gate.kind)
                or self.gate.self_fencing
            ):
                if not await self._publish(chunk):
                    return
                continue
            self.far_writer.write(chunk)
            await self.far_writer.drain()

    def _is_publish(self, chunk: bytes) -> bool:
        if self.gate.kind == "http":
            return chunk.startswith(b"POST ")
        return self.gate.kind == "nats" and b"HPUB hermes." in chunk

    def _frame(self, buffer: bytes) -> Frame | None:
        if self.gate.kind == "http":
            return http_frame(buffer)
        return nats_frame(buffer, b"HPUB hermes.")

    async def _publish(self, buffer: bytes) -> bool:
        """Let one publish suffer its strike; False when the link is over."""
        strike = self.gate.proxy.strike(self.gate.kind)
        while (frame := self._frame(buffer)) is None:
            chunk = await self.near.read(_CHUNK)
            if not chunk:
                return False
            buffer += chunk
        if strike is None:
            await self._send(buffer)
            return True
        if self.gate.kind == "nats":
            self.reply = buffer[frame.start :].split(b" ", 3)[2]
        if strike.place == "in_answer" or (strike.place, strike.action) in _ANSWERS:
            self.at_answer = strike
        offset = strike.offset(frame)
        if self.at_answer or not self.gate.self_fencing:
            await self._send(buffer[:offset])
        if self.at_answer:
            await self._send(buffer[offset:])
            return True
        self.gate.proxy.report(event="fired", id=strike.id)
        rest = buffer if self.gate.self_fencing else buffer[offset:]
        match strike.action:
            case "cut":
                return False
            case "stall":
                await asyncio.sleep(strike.seconds)
                await self._send(rest)
                return True
            case "swallow":
                self.drops_up = True
                return True
            case _:
                await self._deliver_late(strike, rest)
                return False

    async def _send(self, data: bytes) -> None:
        if self.gate.self_fencing and data.startswith(b"POST "):
            last = await self._last_offset()
            data = _IF_MATCH.sub(b'If-Match: "%d"' % last, data, count=1)
        self.far_writer.write(data)
        await self.far_writer.drain()

    async def _last_offset(self) -> int:
        """Ask the sidecar, as one that fences by itself would ask the stream."""
        reader, writer = await self.gate.connect()
        writer.write(b"GET /v1/stream HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        answer = await reader.read()
        writer.close()
        return int(json.loads(answer.partition(b"\r\n\r\n")[2])["last_offset"])

    async def _deliver_late(self, strike: Strike, rest: bytes) -> None:
        """Go away from the caller now, and deliver what it sent when it went on."""
        proxy = self.gate.proxy
        proxy.late += 1
        self.captures = bytearray()
        self.near_writer.close()
        try:
            with suppress(TimeoutError):
                await asyncio.wait_for(proxy.flushing.wait(), strike.seconds)
            self.captures.clear()
            await self._send(rest)
            answer = await self._late_answer()
        except (OSError, RuntimeError):
            answer = "connection gone"
        finally:
            proxy.late -= 1
        proxy.report(event="late", id=strike.id, answer=answer)
        proxy.report_if_flushed()

    async def _late_answer(self) -> str:
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + _LATE_ANSWER_SECONDS
        while loop.time() < ends_at:
            captured = bytes(self.captures or b"")
            if self.gate.kind == "http" and http_frame(captured):
                return captured.split(b" ", 2)[1].decode()
            if self.gate.kind == "nats" and self.reply in captured:
                code = re.search(rb'"err_code":(\d+)', captured)
                return code[1].decode() if code else "stored"
            if self.far.at_eof():
                return "connection gone"
            await asyncio.sleep(0.01)
        return "no answer"

    # -- To the caller -----------------------------------------------------------------

    async def _down(self) -> None:
        try:
            while chunk := await self.far.read(_CHUNK):
                await self._wait(chunk)
                if self.captures is not None:
                    self.captures += chunk
                elif self.at_answer is not None:
                    await self._answer(chunk)
                elif not self.drops_down:
                    if self.gate.proxy.odd_share and self.gate.kind == "nats":
                        chunk = await self._spoil(chunk)
                    if self.gate.proxy.lagging and self.gate.kind == "nats":
                        chunk = await self._lag(chunk, self.gate.proxy.lagging)
                    self.near_writer.write(chunk)
                    await self.near_writer.drain()
        finally:
            if self.captures is None:
                self.near_writer.close()

    async def _spoil(self, buffer: bytes) -> bytes:
        """Put an odd answer in the place of one, or beside it, now and then."""
        proxy = self.gate.proxy
        if random.random() >= proxy.odd_share:  # noqa: S311 - no secret
            return buffer
        while True:
            spoilt, lacks_bytes = proxy.forger.spoil(buffer)
            if not lacks_bytes:
                return spoilt
            chunk = await self.far.read(lacks_bytes)
            if not chunk:
                return buffer
            buffer += chunk

    async def _lag(self, buffer: bytes, state: dict[str, Any]) -> bytes:
        """Let each answer of STREAM.INFO tell an earlier state."""
        place = 0
        while found := _INFO.search(buffer, place):
            end = found.end() + int(found[2])
            while len(buffer) < end:
                chunk = await self.far.read(_CHUNK)
                if not chunk:
                    return buffer
                buffer += chunk
            answer = json.loads(buffer[found.end() : end])
            answer["state"] |= state
            payload = json.dumps(answer, separators=(",", ":")).encode()
            head = b"MSG %b %d\r\n" % (found[1], len(payload))
            buffer = buffer[: found.start()] + head + payload + buffer[end:]
            place = found.start() + len(head) + len(payload)
        return buffer

    async def _answer(self, buffer: bytes) -> None:
        """Let the answer to the struck publish suffer."""
        strike, self.at_answer = self.at_answer, None
        assert strike is not None
        while (frame := self._answer_frame(buffer)) is None:
            chunk = await self.far.read(_CHUNK)
            if not chunk:
                return
            buffer += chunk
        if strike.spares and buffer[frame.start :].split(b" ", 2)[1] == (
            strike.spares.encode()
        ):
            self.near_writer.write(buffer)
            await self.near_writer.drain()
            return
        size = frame.end - frame.start  # the plugin's answers have no body
        middle = frame.start + max(1, min(size - 1, int(size * strike.fraction)))
        if strike.place != "in_answer":
            middle = frame.start
        self.near_writer.write(buffer[:middle])
        await self.near_writer.drain()
        self.gate.proxy.report(event="fired", id=strike.id)
        match strike.action:
            case "cut":
                self.close()
            case "stall":
                await asyncio.sleep(strike.seconds)
                self.near_writer.write(buffer[middle:])
            case _:
                self.drops_down = True

    def _answer_frame(self, buffer: bytes) -> Frame | None:
        if self.gate.kind == "http":
            return http_frame(buffer)
        # The answer may be plain or with headers.
        return nats_frame(buffer, b"MSG " + self.reply)

    async def _wait(self, chunk: bytes) -> None:
        gate = self.gate
        now = asyncio.get_running_loop().time()
        seconds = gate.proxy.delay_seconds.get(gate.kind, 0.0)
        seconds += gate.proxy.line_seconds(gate.kind, len(chunk), now)
        if seconds:
            await asyncio.sleep(seconds)
        if gate.kind == "route":
            name = _ROUTE_NAME.search(chunk) if not self.source else None
            if name and name[1].decode() != gate.node:
                self.source = name[1].decode()
            isolated = gate.proxy.isolated
            if isolated and isolated in (gate.node, self.source):
                # A real network would deliver it after the partition, or never.
                await gate.proxy.joined.wait()


async def _orders(obey: Callable[[dict[str, Any]], None]) -> None:
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    while line := await reader.readline():
        obey(json.loads(line))


async def _main(spec: dict[str, Any]) -> None:
    proxy = Proxy()
    for name, each in spec.items():
        proxy.gates[name] = Gate(proxy, name, each)
        await proxy.gates[name].start()
    proxy.report(event="started")
    await _orders(proxy.obey)
    os._exit(0)  # every link is to end at once, held back or not


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever started us ends us
    uvloop.run(_main(json.loads(sys.argv[1])))
