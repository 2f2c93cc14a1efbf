# SPDX-License-Identifier: Apache-2.0
"""2,000 connections without a token that do what costs most, in every phase of HTTP.

`make crowd` (ten minutes): what the daemon holds meanwhile, how long a probe takes, and
whether each event of a plugin on the Unix socket is stored. It fails beyond the bounds
that SECURITY.md states.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import trustme
from support.nats import NatsProcess
from support.process import memory_kib
from support.sidecar import SidecarProcess, last_offset, post, sidecar_on

if TYPE_CHECKING:
    from collections.abc import Iterator

CONNECTIONS: Final = 2_000
GROWTH_KIB: Final = 150 * 1024
PROBE_SECONDS: Final = 1.0

_GET = b"GET %b HTTP/1.1\r\nHost: localhost\r\n"
_CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
_POST = b"POST /v1/events HTTP/1.1\r\nHost: localhost\r\nContent-Type: x\r\n"


class _Way(NamedTuple):
    """What one connection does: its beginning, what it goes on with, how."""

    start: bytes
    then: bytes = b""
    pause_seconds: float = 0.0
    reads: bool = True
    does_handshake: bool = True
    resets: bool = False


_WAYS: Final = {
    "silent": _Way(b"", does_handshake=False),
    "silent after its handshake": _Way(b""),
    "half a handshake": _Way(b"\x16\x03\x01\x02\x00\x01", does_handshake=False),
    "half a head": _Way(_GET % b"/" + b"A: "),
    "dripping head": _Way(_GET % b"/" + b"A: ", b"x", 1),
    "endless header": _Way(_GET % b"/" + b"A: ", b"x" * 4096),
    "many headers": _Way(_GET % b"/", b"a:\r\n" * 1024),
    "wide head": _Way(_GET % b"/" + (b"A: %b\r\n" % (b"x" * 150)) * 98),
    "trailers": _Way(_GET % b"/health" + _CHUNKED + b"0\r\n", b"a:\r\n" * 16384),
    "endless trailer": _Way(_GET % b"/health" + _CHUNKED + b"0\r\na:", b"x" * 65536),
    "chunk extension": _Way(_GET % b"/health" + _CHUNKED + b"5;", b"x" * 65536),
    "small chunks": _Way(_POST + _CHUNKED, b"1\r\nx\r\n" * 10_000),
    "pipeline": _Way(b"", (_GET % b"/x" + b"\r\n") * 5_000),
    "pipeline, untaken": _Way(b"", (_GET % b"/" + b"\r\n") * 3, 0, reads=False),
    "pipeline, reset while it waits": _Way(
        (_GET % b"/" + (b"A: %b\r\n" % (b"x" * 1500)) * 9 + b"\r\n")
        + (_GET % b"/" + b"\r\n"),
        resets=True,
    ),
    "half a body": _Way(_POST + b"Content-Length: 7000000\r\n\r\n" + b"x" * 200_000),
    "endless body": _Way(_POST + b"Content-Length: 99999999999\r\n\r\n", b"x" * 2**18),
    "body awaited": _Way(
        _POST + b"Expect: 100-continue\r\nContent-Length: 9\r\n\r\n", b"x", 1
    ),
    "page": _Way(b"", _GET % b"/" + b"\r\n", 0.01),
    "metrics": _Way(b"", _GET % b"/metrics" + b"\r\n", 0.01),
    "health": _Way(b"", _GET % b"/health" + b"\r\n", 0.01),
    "page, untaken": _Way(b"", _GET % b"/" + b"\r\n", 0.01, reads=False),
}


@cache
def _anybody() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


# -- Those who attack, in a process of their own ---------------------------------------


async def _attend(port: int, way: _Way, *, tls: bool) -> None:
    context = _anybody() if tls and way.does_handshake else None
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    taking = asyncio.create_task(_take(reader)) if way.reads else None
    try:
        async with asyncio.timeout(random.uniform(5, 60)):  # noqa: S311
            writer.write(way.start)
            if way.resets:
                await writer.drain()
                _reset_at_its_end(writer)
                return
            while way.then and not writer.is_closing():
                writer.write(way.then)
                await writer.drain()
                await asyncio.sleep(way.pause_seconds)
            await reader.read() if taking is None else await taking
    finally:
        if taking is not None:
            taking.cancel()
        writer.transport.abort()


def _reset_at_its_end(writer: asyncio.StreamWriter) -> None:
    linger = struct.pack("ii", 1, 0)
    end = writer.get_extra_info("socket")
    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)


async def _take(reader: asyncio.StreamReader) -> None:
    while await reader.read(65536):
        pass


async def _attack(port: int, *, tls: bool) -> None:
    ways = list(_WAYS.values())

    async def go_on(number: int) -> None:
        while True:
            with suppress(OSError, TimeoutError, RuntimeError):
                await _attend(port, ways[number % len(ways)], tls=tls)
            await asyncio.sleep(0.2)

    await asyncio.gather(*map(go_on, range(CONNECTIONS)))


@contextmanager
def attacked(port: int, *, tls: bool) -> Iterator[None]:
    """Let them attack a port meanwhile."""
    arguments = [sys.executable, "-m", "fuzz.crowd", "--attack", str(port)]
    environ = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parent.parent)}
    process = subprocess.Popen([*arguments, *(["--tls"] if tls else [])], env=environ)
    try:
        yield
        assert process.poll() is None, "nobody attacked"
    finally:
        process.kill()
        process.wait()


# -- What a probe and a plugin see -----------------------------------------------------


class Seen(NamedTuple):
    """What was measured."""

    grown_kib: int
    slowest_probe_seconds: float
    failures: Counter[str]
    probes: int
    events: int

    def __str__(self) -> str:
        return (
            f"memory {self.grown_kib / 1024:+.0f} MiB over idle, {self.probes} probes, "
            f"{self.failures.total()} failed {dict(self.failures)}, the slowest "
            f"{self.slowest_probe_seconds:.2f} s, {self.events} events stored"
        )

    @property
    def is_within(self) -> bool:
        """Tell whether the bounds were kept."""
        return (
            self.grown_kib < GROWTH_KIB
            and self.slowest_probe_seconds < PROBE_SECONDS
            and not self.failures
        )


def _probe(port: int, *, tls: bool) -> None:
    connection = socket.create_connection(("127.0.0.1", port), 10)
    if tls:
        connection = _anybody().wrap_socket(connection)
    with connection:
        connection.sendall(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n")
        if not connection.recv(100).startswith(b"HTTP/1.1 200"):
            raise ConnectionError


def watch(sidecar: SidecarProcess, seconds: float, *, tls: bool = False) -> Seen:
    """Measure a sidecar under attack; each event must be stored as the next offset."""
    pid, port = sidecar.running.pid, sidecar.tcp_port
    slowest, probes, events, most_kib = 0.0, 0, 0, 0
    failures: Counter[str] = Counter()
    idle_kib = memory_kib(pid)
    with sidecar.client() as http, attacked(port, tls=tls):
        last, ends_at = last_offset(http), time.monotonic() + seconds
        while time.monotonic() < ends_at:
            started_at = time.monotonic()
            probes += 1
            try:
                _probe(port, tls=tls)
            except OSError as error:
                failures[type(error).__name__] += 1
            slowest = max(slowest, time.monotonic() - started_at)
            last += 1
            answer = post(http, last=last - 1)
            assert answer.status_code == 201, answer.text
            assert answer.json()["offset"] == last
            events += 1
            most_kib = max(most_kib, memory_kib(pid))
            time.sleep(0.05)
    return Seen(most_kib - idle_kib, slowest, failures, probes, events)


def tls_files(directory: Path) -> tuple[Path, Path]:
    """Write a certificate and its key."""
    certificate = trustme.CA().issue_cert("localhost")
    files = directory / "chain.pem", directory / "key.pem"
    certificate.private_key_pem.write_to_path(files[1])
    for pem in certificate.cert_chain_pems:
        pem.write_to_path(files[0], append=True)
    return files


def main() -> None:
    """Run as a program."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--attack", type=int)
    parser.add_argument("--tls", action="store_true")
    arguments = parser.parse_args()
    if arguments.attack is not None:
        asyncio.run(_attack(arguments.attack, tls=arguments.tls))
    with tempfile.TemporaryDirectory() as name:
        sys.exit(run(Path(name), arguments.minutes * 60))


def run(directory: Path, seconds: float) -> int:
    """Attack one sidecar without TLS and one with it; give an exit status."""
    is_within = True
    token = directory / "token"
    token.write_text("a-token-of-nobody-here")
    files = tls_files(directory)
    with NatsProcess(directory / "nats") as nats:
        for tls in (False, True):
            settings: dict[str, Any] = {"token_file": token, "log_level": "info"}
            if tls:
                settings |= {"tls_cert_file": files[0], "tls_key_file": files[1]}
            with sidecar_on(nats, directory / f"sidecar-{tls}", **settings) as sidecar:
                seen = watch(sidecar, seconds / 2, tls=tls)
            print("https:" if tls else "http:", seen, flush=True)  # noqa: T201
            is_within = is_within and seen.is_within
    return 0 if is_within else 1


if __name__ == "__main__":
    main()
