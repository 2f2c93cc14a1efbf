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
import sqlite3
import zlib
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Final, NamedTuple

from sidecar.command_error import NO_FIT_STREAM, NOT_READY, CommandError
from sidecar.commands.http_client import address_of, ask, client
from sidecar.commands.provision import INBOX_PREFIX, connected, provision
from sidecar.commands.table import Table
from sidecar.errors import NATS_DOWN, Problem
from sidecar.jetstream.embedded_server import embedded_nats
from sidecar.model.moving import CacheError, Moving, first_offset, read_cache
from sidecar.settings import default_embedded_dir

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from sidecar.jetstream.credentials import NatsServer
    from sidecar.settings import Settings

_CACHES: Final = "_hermes-client-*.json*"
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
    """Files of clients, or directories of them."""
    from_sqlite: Path | None
    to_sqlite: Path | None
    is_dry: bool


def move_over(settings: Settings, plan: Plan) -> list[str]:
    """Move, and print what was done and what remains to be done.

    Gives what is wrong with a stream that exists, a sentence each. Raises MoveError,
    BehindError, and as `create_stream` and `end_of_stream` do.
    """
    clients = read_clients(plan.caches)
    end = None
    if plan.to_sqlite is not None:
        end = end_of_stream(settings)
    elif plan.from_sqlite is not None:
        end = end_of_sqlite(plan.from_sqlite)
    first = where_to_begin(clients, end)
    what = str(plan.to_sqlite or f"stream {settings.stream}")
    if plan.is_dry:
        print(f"Would create {what}; its first offset would be {first}.")
        return []
    if plan.to_sqlite is not None:
        create_sqlite(plan.to_sqlite, first)
    elif sentences := asyncio.run(create_stream(settings, first)):
        return sentences
    print(f"The next offset of {what} is {first}.")
    print("Write this into the configuration of hermes-server and of each client:\n")
    print(configuration(settings, plan.to_sqlite))
    print("\nThen start all, and run: hermes-server-cli initsync")
    return []


def read_clients(paths: Sequence[Path]) -> list[Moving]:
    """Read the caches, files or directories of them, and print a table of them.

    Raises MoveError.
    """
    clients = [_read(file) for path in paths for file in _files(path)]
    Table("CLIENT", "NEXT OFFSET", "INITSYNC").show(
        [
            (
                each.name,
                "-" if each.next_offset is None else str(each.next_offset),
                "read" if each.is_initialised else "not read",
            )
            for each in clients
        ]
    )
    return clients


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


def end_of_sqlite(file: Path) -> int:
    """Give the next offset of Hermes' SQLite bus; raise MoveError."""
    try:
        with closing(
            sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)
        ) as bus:
            row = bus.execute(_END).fetchone()
    except sqlite3.Error as error:
        raise MoveError(f"{file} is no SQLite bus of Hermes: {error}.") from None
    if row is None:
        raise MoveError(f"{file} has never held an event: there is nothing to move.")
    return int(row[0])


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
    """Create Hermes' SQLite bus with this first offset; raise MoveError."""
    try:
        file.touch(mode=0o600, exist_ok=False)
        with closing(sqlite3.connect(file)) as bus:
            bus.execute(_TABLE)
            bus.execute(
                "INSERT INTO sqlite_sequence VALUES ('hermesmessages', ?)", (first - 1,)
            )
            bus.commit()
    except FileExistsError:
        raise MoveError(f"{file} exists already; remove it or name another.") from None
    except (OSError, sqlite3.Error) as error:
        raise MoveError(f"{file} cannot be created: {error}.") from None


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    files = sorted(path.glob(_CACHES))
    if not files:
        raise MoveError(f"{path} holds no {_CACHES}: name a client's cache directory.")
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
    values = {"bus": "nats_sidecar", "setting": "url", "value": address_of(settings)}
    return _CONFIGURATION.format(**values)
