# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: T201 - a command prints
"""Moves Hermes from another bus to this one, or back: offsets go on where clients are.

A client goes on only at the offset in its cache. So the bus that it comes to must begin
there, once all clients have read the one that they leave.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import re
import sqlite3
import time
import zlib
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from sidecar.command_error import NO_FIT_STREAM, NOT_READY, CommandError, printable
from sidecar.commands.http_client import address_of, ask, client
from sidecar.commands.provision import INBOX_PREFIX, connected, provision
from sidecar.commands.table import Table
from sidecar.errors import NATS_DOWN, Problem
from sidecar.jetstream.embedded_server import embedded_nats
from sidecar.model.moving import CacheError, Moving, first_offset, read_cache
from sidecar.settings import default_embedded_dir
from sidecar.unit_settings import UNIT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sidecar.jetstream.credentials import NatsServer
    from sidecar.settings import Settings

_CACHE: Final = re.compile(r"_hermes-client-[^.]+\.json(\.gz)?")
_UNSEEN: Final = (
    "if it holds more, no client will get that. For an SQLite bus name it "
    "(--from-sqlite)."
)
_EARLIER: Final = (
    "If this stream is of an earlier move, and Hermes does not use it, stop the "
    "sidecars, delete it (embedded: move its directory away), and run this again."
)
_LEFT: Final = (
    "Stop the sidecars and delete stream {} (embedded: move its directory away): its "
    "offsets are used a second time now. Before you come back, run move-over again."
)
_QUIET_SECONDS: Final = 120
_SEEN_SECONDS: Final = 60
"""A client that waits asks again after less."""
_TABLE: Final = (
    "CREATE TABLE hermesmessages (msgid INTEGER PRIMARY KEY AUTOINCREMENT, "
    "data TEXT NOT NULL, timestamp REAL NOT NULL)"
)
"""As Hermes' SQLite producer makes it; what it finds it leaves."""
_START_SECONDS: Final = 30.0
_CONFIGURATION: Final = """\
hermes:
  plugins:
    messagebus:
      {bus}:
        settings:
          {setting}: {value}"""
_RETENTION: Final = "\n          retention_in_days: 30  # of hermes-server alone"
_END: Final = "SELECT seq + 1 FROM sqlite_sequence WHERE name = 'hermesmessages'"


class MoveError(CommandError):
    """Nothing can be moved; the text says why and what to do."""

    exit_status = NO_FIT_STREAM


class BehindError(CommandError):
    """A client has not read all; nothing was created."""

    exit_status = NOT_READY


class Plan(NamedTuple):
    """What the command line says."""

    caches: Sequence[Path]
    """Files of clients, or directories of them; a pattern that no shell expanded."""
    from_sqlite: Path | None
    to_sqlite: Path | None
    is_dry: bool
    is_sure: bool
    """That nobody writes or reads any more, whatever it looks like."""


def move_over(settings: Settings, plan: Plan) -> list[str]:
    """Move, and print what was done and what remains to be done.

    Gives what is wrong with a stream that exists, a sentence each. Raises MoveError,
    BehindError, and as `create_stream` and `end_of_stream` do.
    """
    clients = read_clients(plan.caches)
    end = None
    if plan.to_sqlite is not None:
        end = end_of_stream(settings)
        if not plan.is_sure:
            refuse_running(settings, clients)
    elif plan.from_sqlite is not None:
        end = end_of_sqlite(plan.from_sqlite, even_if_new=plan.is_sure)
    first = where_to_begin(clients, end)
    what = str(plan.to_sqlite or f"stream {settings.stream}")
    if end is None:
        print(f"Only you can see that the old bus ends at {first}: {_UNSEEN}")
    if plan.is_dry:
        print(
            f"Would create {what}, which was not looked at; its next offset: {first}."
        )
        return []
    if plan.to_sqlite is not None:
        create_sqlite(plan.to_sqlite, first)
    elif sentences := asyncio.run(create_stream(settings, first)):
        return [*sentences, _EARLIER]
    print(f"Created {what}, or found it so: its next offset is {first}.")
    print("Write this into the configuration of hermes-server and of each client:\n")
    print(configuration(settings, plan.to_sqlite))
    print("\nThen start all, and run: hermes-server-cli initsync")
    if plan.to_sqlite is not None:
        print(_LEFT.format(settings.stream))
    return []


def read_clients(paths: Sequence[Path]) -> list[Moving]:
    """Read the caches, files or directories of them, and print a table of them.

    Raises MoveError.
    """
    files = [file for path in paths for file in _files(path)]
    clients = {}
    for file in files:
        found = _read(file)
        if found.name in clients:
            raise MoveError(
                f"There are two caches of {found.name}, one is {file}: name the one "
                "that its client uses; Hermes leaves the other one where "
                "enable_compression was changed."
            )
        clients[found.name] = found
    Table("CLIENT", "NEXT OFFSET", "INITSYNC").show(
        [
            (
                printable(each.name),
                "-" if each.next_offset is None else str(each.next_offset),
                "read" if each.is_initialised else "not read",
            )
            for each in clients.values()
        ]
    )
    return list(clients.values())


def where_to_begin(clients: Sequence[Moving], end: int | None) -> int:
    """Give the first offset of the new bus; raise MoveError, BehindError."""
    try:
        first, sentences = first_offset(clients, end)
    except CacheError as error:
        raise MoveError(str(error)) from None
    if sentences:
        raise BehindError(
            "\n".join([*sentences, "Stop hermes-server meanwhile, and run this again."])
        )
    return first


def end_of_sqlite(file: Path, *, even_if_new: bool = False) -> int:
    """Give the next offset of Hermes' SQLite bus; raise MoveError.

    hermes-server writes to it in each pass, even where nothing changed.
    """
    try:
        age_seconds = time.time() - file.stat().st_mtime
        uri = f"{file.absolute().as_uri()}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True)) as bus:
            row = bus.execute(_END).fetchone()
    except (OSError, sqlite3.Error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        hint = ": a Hermes uses it, stop it" if "locked" in reason else ""
        raise MoveError(
            f"{file} cannot be read as Hermes' SQLite bus: {reason}{hint}."
        ) from None
    if row is None:
        raise MoveError(f"{file} has never held an event: there is nothing to move.")
    if age_seconds < _QUIET_SECONDS and not even_if_new:
        raise MoveError(
            f"{file} was written {age_seconds:.0f} s ago: what hermes-server writes "
            f"after this would be lost. Stop it, and run this again {_QUIET_SECONDS} s "
            "later, or with --yes if it is stopped."
        )
    return int(row[0])


def refuse_running(settings: Settings, clients: Sequence[Moving]) -> None:
    """Raise MoveError if a client reads here still, or its cache was not named."""
    with client(settings) as http:
        rows = ask(http, "/v1/clients")["clients"]
    named = {f"hermes-client-{each.name}" for each in clients}
    running = [row["name"] for row in rows if row["last_seen_seconds"] < _SEEN_SECONDS]
    missing = [row["name"] for row in rows if row["name"] not in named]
    for names, what in ((running, "still reads"), (missing, "reads, and is not named")):
        if names:
            raise MoveError(
                f"{printable(', '.join(names))} {what}: it would lack what is stored "
                "from now on. Stop hermes-server, then each client when it has read "
                "everything, and name all caches. --yes does it nevertheless."
            )


def end_of_stream(settings: Settings) -> int:
    """Give the next offset of this bus, by its sidecar; raise DaemonError."""
    with client(settings) as http:
        return int(ask(http, "/v1/stream")["next_offset"])


async def create_stream(settings: Settings, first: int) -> list[str]:
    """Create the stream with this first offset; say what is wrong with one that exists.

    An embedded server is started for it, so its sidecar must not run. There a stream
    that never held an event gives way. Raises as `provision` does, and EmbeddedError.
    """
    if not settings.embedded:
        return (await provision(settings, first))[1]
    directory = settings.embedded_dir or default_embedded_dir()
    _become_owner(directory)
    async with embedded_nats(directory, settings.max_event_bytes) as (server, _):
        await _remove_unused(settings, server, first)
        return (await provision(settings, first, server=server))[1]


def _become_owner(directory: Path) -> None:
    """Go on as the sidecar's user: root may read caches, and owns nothing here."""
    if os.geteuid() != 0 or not directory.parent.exists():
        return
    owner = (directory if directory.exists() else directory.parent).stat()
    if owner.st_uid != 0:
        os.setgroups([])
        os.setgid(owner.st_gid)
        os.setuid(owner.st_uid)


async def _remove_unused(settings: Settings, server: NatsServer, first: int) -> None:
    """Remove a stream of another first offset that never held an event.

    Nobody else can use this server: it is ours, and nobody knows its new token.
    """
    server = replace(server, inbox_prefix=INBOX_PREFIX)
    async with asyncio.timeout(_START_SECONDS):
        while True:
            try:
                async with connected(settings, server) as connection:
                    info = await connection.api.stream_info()
                    if info and info.is_unused and info.position.first != first:
                        await connection.api.delete_stream()
                    return
            except Problem as problem:
                if problem.cause is not NATS_DOWN:
                    raise
            await asyncio.sleep(0.1)


def create_sqlite(file: Path, first: int) -> None:
    """Create Hermes' SQLite bus with this first offset; raise MoveError.

    As root for whom its directory belongs to.
    """
    try:
        file.touch(mode=0o640, exist_ok=False)
        if os.geteuid() == 0:
            owner = file.absolute().parent.stat()
            os.chown(file, owner.st_uid, owner.st_gid)
        with closing(sqlite3.connect(file)) as bus:
            bus.execute(_TABLE)
            bus.execute(
                "INSERT INTO sqlite_sequence VALUES ('hermesmessages', ?)", (first - 1,)
            )
            bus.commit()
    except FileExistsError:
        raise MoveError(
            f"{file} exists already, perhaps as a bus in use: name another file."
        ) from None
    except (OSError, sqlite3.Error) as error:
        raise MoveError(f"{file} cannot be created: {error}.") from None


def _files(path: Path) -> list[Path]:
    try:
        if "*" in str(path) and not path.exists():
            parts = path.absolute().parts
            found = sorted(Path(parts[0]).glob(str(Path(*parts[1:]))))
            if not found:
                raise MoveError(f"Nothing is named {path}.")
            return [file for each in found for file in _files(each)]
        if not path.is_dir():
            return [path]
        files = sorted(each for each in path.iterdir() if _CACHE.fullmatch(each.name))
    except OSError as error:
        raise MoveError(
            f"{path} cannot be read: {error.strerror}. Run this as root."
        ) from None
    if not files:
        raise MoveError(
            f"{path} holds no _hermes-client-NAME.json: name a client's cache "
            "directory, and leave out a client that has never run."
        )
    return files


def _read(file: Path) -> Moving:
    try:
        data = file.read_bytes()
        if file.suffix == ".gz":
            data = gzip.decompress(data)
        name = file.name.removeprefix("_hermes-client-").partition(".")[0]
        return read_cache(name, json.loads(data))
    except OSError as error:
        reason = error.strerror or str(error)
    except (ValueError, EOFError, RecursionError, zlib.error) as error:
        reason = str(error) if isinstance(error, CacheError) else "it is damaged"
    raise MoveError(
        f"{file} is no cache of a hermes-client (_hermes-client-NAME.json): {reason}."
    )


def configuration(settings: Settings, sqlite: Path | None) -> str:
    """Give what to write into the configuration of hermes-server and its clients."""
    if sqlite is not None:
        values = {"bus": "sqlite", "setting": "uri", "value": sqlite.absolute()}
        return _CONFIGURATION.format(**values) + _RETENTION
    url = address_of(settings)
    if not url.startswith("unix:") and settings.tcp_access == "off":
        url = f"unix://{UNIT['SIDECAR_UNIX_SOCKET']}"  # the API is at no other place
    values = {"bus": "nats_sidecar", "setting": "url", "value": url}
    return _CONFIGURATION.format(**values)
