# SPDX-License-Identifier: Apache-2.0
"""What the commands take on the command line, and what each may end with."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sidecar.command_error import (
    BAD_SETTINGS,
    CANNOT_LISTEN,
    NO_EMBEDDED_NATS,
    NO_EVENT,
    NO_FIT_STREAM,
    NO_NATS,
    NO_OUTPUT,
    NOT_INSTALLED,
    NOT_READY,
    OK,
    OTHER_LIBRARY,
)
from sidecar.model.event import MAX_OFFSET, plain_name
from sidecar.model.wanted import ObjectKey, read_key, read_time

if TYPE_CHECKING:
    from collections.abc import Callable

ALWAYS: Final = {
    OK: "done",
    BAD_SETTINGS: "wrong settings or arguments",
    NO_OUTPUT: "the output cannot be written",
    130: "interrupted",
}
_NATS: Final = {
    NO_NATS: "no NATS, or it refuses the login",
    NO_EMBEDDED_NATS: "embedded, and its sidecar does not run",
    OTHER_LIBRARY: "nats-py is of an unsupported version",
}
_DAEMON: Final = {NOT_READY: "the daemon does not answer, or refuses"}
_FAULTS: Final = _NATS | {
    NO_NATS: "no NATS, it refuses the login, or a permission is missing",
    NO_FIT_STREAM: "the stream is missing or unusable",
}
STATUSES: Final[dict[str, dict[int, str]]] = {
    "serve": {
        CANNOT_LISTEN: "a socket, port or certificate cannot be used",
        NO_EMBEDDED_NATS: "the embedded nats-server cannot start",
        OTHER_LIBRARY: "nats-py or uvicorn is of an unsupported version",
    },
    "provision": _NATS
    | {NO_FIT_STREAM: "it is not as it should be, was refused, or may have been lost"},
    "move-over": _NATS
    | {
        NOT_READY: "a client has not read everything, or the daemon does not answer",
        NO_EMBEDDED_NATS: "the embedded nats-server cannot start: its sidecar runs",
        NO_FIT_STREAM: "nothing was moved; the text says why",
    },
    "check": _FAULTS,
    "doctor": _FAULTS | {NOT_READY: "the daemon or the plugin's url does not answer"},
    "tail": _DAEMON | {NO_EVENT: "there is no such event"},
    "trace": _DAEMON | {NO_EVENT: "there is no such event"},
    "clients": _DAEMON,
    "healthcheck": _DAEMON,
    "install-plugins": {NOT_INSTALLED: "not copied; with --check: they differ"},
    "demo": {NOT_INSTALLED: "it failed"},
}
"""What each command may end with, besides what all may."""


def add_looks(command: argparse.ArgumentParser) -> None:
    """Add where check and doctor look."""
    add_embedded(command, "look at the embedded nats-server of a running sidecar")
    command.add_argument(
        "--nats-monitor",
        metavar="URL",
        help="monitoring port of the NATS server, as http://127.0.0.1:8222: the only "
        "place that tells sync_interval",
    )


def add_move(command: argparse.ArgumentParser) -> None:
    """Add what move-over takes."""
    command.add_argument(
        "--client-cache",
        type=Path,
        nargs="+",
        required=True,
        metavar="FILE",
        help="the cache of each client, _hermes-client-NAME.json or .json.gz, or the "
        "directory of it",
    )
    direction = command.add_mutually_exclusive_group()
    direction.add_argument(
        "--from-sqlite",
        type=Path,
        metavar="FILE",
        help="Hermes' SQLite bus that is left: whether clients have read all of it",
    )
    direction.add_argument(
        "--to-sqlite",
        type=Path,
        metavar="FILE",
        help="the way back: create this file as Hermes' SQLite bus",
    )
    add_embedded(command, "the sidecar has an embedded nats-server, and does not run")
    command.add_argument(
        "--dry-run", action="store_true", help="say what would be done, and do nothing"
    )
    command.add_argument(
        "--yes",
        action="store_true",
        help="do it also where hermes-server or a client seems to run still",
    )


def add_embedded(command: argparse.ArgumentParser, what: str) -> None:
    """Add which NATS is meant."""
    command.add_argument("--embedded", action="store_true", help=what)


def add_tail(command: argparse.ArgumentParser) -> None:
    """Add what tail takes."""
    start = command.add_mutually_exclusive_group()
    end = command.add_mutually_exclusive_group()
    start.add_argument(
        "--from",
        dest="start",
        type=_start,
        metavar="OFFSET",
        help="an offset, first, next, or -N for the last N offsets (default -10; first "
        "with --key or --until)",
    )
    end.add_argument("--follow", action="store_true", help="wait for further events")
    command.add_argument("--category", help="only events of this category")
    add_object(command)
    add_times(start.add_argument, end.add_argument)
    add_json(command)
    command.add_argument(
        "--show-payload",
        action="store_true",
        help="show attributes too, which may be secrets",
    )


def add_object(command: argparse.ArgumentParser, *, required: bool = False) -> None:
    """Add which object is meant."""
    command.add_argument(
        "--type",
        dest="object_type",
        type=_name,
        required=required,
        metavar="TYPE",
        help="only events of objects of this type, as Users",
    )
    command.add_argument(
        "--key",
        type=_key,
        required=required,
        help="only events of the object with this primary key: its text, as 1234 or "
        "jdoe; or JSON, in single quotes: '\"jdoe\"', and '[\"INSA\", 12]' for a "
        "composite key. Keys are compared as text: 1234 finds the number and the text",
    )


def add_times(
    add_since: Callable[..., object], add_until: Callable[..., object]
) -> None:
    """Add from when and until when."""
    add_since(
        "--since",
        type=_time,
        metavar="TIME",
        help="only events stored since then: 2026-11-28T16:00:00Z, or how long ago, as "
        "30m, 2h, 3d",
    )
    add_until(
        "--until", type=_time, metavar="TIME", help="only events stored until then"
    )


def add_json(command: argparse.ArgumentParser) -> None:
    """Add the form of the output."""
    command.add_argument(
        "--json", action="store_true", help="print one JSON object per line"
    )


def _start(text: str) -> str:
    if text not in ("first", "next") and not text.removeprefix("-").isdecimal():
        raise argparse.ArgumentTypeError("must be an offset, first, next or -N")
    return text


def _name(text: str) -> str:
    if plain_name(text) is None:
        raise argparse.ArgumentTypeError("must be letters, digits, _ or -")
    return text


def _key(text: str) -> ObjectKey:
    try:
        return read_key(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _time(text: str) -> datetime:
    try:
        return read_time(text, datetime.now(UTC))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def offset(text: str) -> int:
    """Read an offset."""
    if not text.isdecimal() or not 1 <= int(text) <= MAX_OFFSET:
        raise argparse.ArgumentTypeError(f"must be an integer from 1 to {MAX_OFFSET}")
    return int(text)
