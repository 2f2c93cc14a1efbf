# SPDX-License-Identifier: Apache-2.0
"""The demo: a whole initsync through the real plugin, a real sidecar, a real NATS."""

from __future__ import annotations

import builtins
import importlib
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

import httpx

from sidecar.command_error import NOT_INSTALLED, CommandError
from sidecar.commands.http_client import at_socket
from sidecar.commands.install import install_plugins

if TYPE_CHECKING:
    from collections.abc import Iterator

_STAND_IN = Path(__file__).resolve().parent / "stand_in"
_START_SECONDS = 30.0
_ENDS: Final = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)

_USERS = [
    ("Zoé", "Lefèvre"),
    ("Loïc", "Dœuff"),
    ("Maëlys", "Guérin"),
    ("François", "Nuñez"),
    ("Anaïs", "Ève-Müller"),
]
_GROUPS = ["étudiants", "enseignants"]
_PHOTO_BYTES = 5 * 1024 * 1024


class DemoError(CommandError):
    """The demo could not be shown; the text says why."""

    exit_status = NOT_INSTALLED


def demo() -> int:
    """Show the demo; give the exit status. It leaves nothing behind."""
    for each in _ENDS:
        if signal.getsignal(each) is not signal.SIG_IGN:
            signal.signal(each, _end)
    with tempfile.TemporaryDirectory(prefix="hermes-nats-demo-") as name:
        directory = Path(name)
        print("Starting a sidecar with an embedded NATS server ...", flush=True)
        with _sidecar(directory) as socket:
            _prepare_hermes(directory / "hermes")
            events = list(_initsync())
            with _load_plugin("messagebus_producers", socket) as producer:
                for number, event in enumerate(events, 1):
                    producer.send(event)
                    _show_progress(number, len(events))
            with _load_plugin("messagebus_consumers", socket) as consumer:
                consumer.seekToBeginning()
                return _show_stream(list(consumer), events)


def _end(number: int, _: object) -> None:
    """Leave, and by no second signal in the middle of that."""
    for ignored in _ENDS:
        signal.signal(ignored, signal.SIG_IGN)
    raise SystemExit(128 + number)


@contextmanager
def _sidecar(directory: Path) -> Iterator[Path]:
    socket = directory / "api.sock"
    settings = {
        "SIDECAR_EMBEDDED": "true",
        "SIDECAR_EMBEDDED_DIR": str(directory / "nats"),
        "SIDECAR_UNIX_SOCKET": str(socket),
        "SIDECAR_HTTP_PORT": "0",
        "SIDECAR_LOG_LEVEL": "error",
    }
    environ = {k: v for k, v in os.environ.items() if not k.startswith("SIDECAR_")}
    # Held back until there is a process that we know and can stop.
    others = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDS)
    process = subprocess.Popen(
        [sys.executable, "-m", "sidecar", "serve"],
        env=environ | settings,
        start_new_session=True,  # Ctrl-C is for us; we stop it afterwards
        preexec_fn=partial(_take_signals, others),  # noqa: PLW1509 - there is no other thread
    )
    try:
        signal.pthread_sigmask(signal.SIG_SETMASK, others)
        _wait_until_ready(process, socket)
        yield socket
    finally:
        process.terminate()
        process.wait()


def _take_signals(others: set[int | signal.Signals]) -> None:
    """Let what was held back end this process, which is not the sidecar yet."""
    for each in _ENDS:  # our handlers would raise in the demo
        signal.signal(each, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, others)


def _wait_until_ready(process: subprocess.Popen[bytes], socket: Path) -> None:
    ends_at = time.monotonic() + _START_SECONDS
    with at_socket(socket, 30) as http:
        while time.monotonic() < ends_at and process.poll() is None:
            try:
                if http.get("/health/ready").is_success:
                    return
            except httpx.HTTPError:
                pass
            time.sleep(0.05)
    raise DemoError("The sidecar did not become ready; its log above says why.")


def _prepare_hermes(hermes: Path) -> None:
    """Make a directory that is to the plugins what Hermes is."""
    shutil.copytree(_STAND_IN, hermes)
    (hermes / "plugins").mkdir()
    install_plugins(hermes / "plugins")
    sys.path.insert(0, str(hermes))
    sys.dont_write_bytecode = True
    vars(builtins)["__hermes__"] = SimpleNamespace(
        logger=logging.getLogger("hermes-demo")
    )


def _load_plugin(family: str, socket: Path) -> Any:
    """Load a plugin by its module path, as Hermes' loader does."""
    module = importlib.import_module(f"plugins.{family}.nats_sidecar.nats_sidecar")
    plugin_class = getattr(module, module.HERMES_PLUGIN_CLASSNAME)
    return plugin_class(
        {
            "url": f"unix://{socket}",
            "send_timeout": 30,
            "unknown_timeout": 60,
            "batch_size": 500,
        }
    )


def _initsync() -> Iterator[Any]:
    """Make the events of a small initsync, as hermes-server emits them."""
    event = importlib.import_module("lib.datamodel.event").Event

    def init(kind: str, **values: Any) -> Any:
        return event(evcategory="initsync", eventtype=kind, **values)

    schema = {
        "Users": {"HERMES_ATTRIBUTES": ["id", "first", "last", "password", "photo"]},
        "Groups": {"HERMES_ATTRIBUTES": ["id", "name"]},
        "GroupsMembers": {"HERMES_ATTRIBUTES": ["group_id", "user_id"]},
    }
    yield init("init-start", objattrs=schema)
    for number, (first, last) in enumerate(_USERS, 1):
        attributes: dict[str, Any] = {"id": number, "first": first, "last": last}
        if number == 1:
            attributes["password"] = "c0rrect-horse-battery-staple"  # noqa: S105
        if number == len(_USERS):
            attributes["photo"] = os.urandom(_PHOTO_BYTES)
        yield init("added", objtype="Users", objpkey=number, objattrs=attributes)
    for number, name in enumerate(_GROUPS, 1):
        attributes = {"id": number, "name": name}
        yield init("added", objtype="Groups", objpkey=number, objattrs=attributes)
    for number in range(1, len(_USERS) + 1):
        pair = (1 + number % len(_GROUPS), number)
        attributes = dict(zip(("group_id", "user_id"), pair, strict=True))
        yield init("added", objtype="GroupsMembers", objpkey=pair, objattrs=attributes)
    yield init("init-stop")


def _show_progress(number: int, total: int) -> None:
    if sys.stdout.isatty():
        print(f"\rSent {number} of {total} events", end="\n" * (number == total))
    elif number == total:
        print(f"Sent {number} of {total} events")


def _show_stream(stored: list[Any], sent: list[Any]) -> int:
    """Print what was read back as a table, and compare it with what was sent."""
    print(f"\n{'category':<10} {'type':<11} {'object':<14} {'key':<8} {'offset':>14}")
    for event in stored:
        key = "" if event.objpkey is None else str(event.objpkey)
        print(
            f"{event.evcategory:<10} {event.eventtype:<11} "
            f"{event.objtype or '':<14} {key:<8} {event.offset:>14}"
        )
    in_order = [each.to_json() for each in stored] == [each.to_json() for each in sent]
    print(
        f"\n{len(stored)} of {len(sent)} events are in the stream, "
        + ("in the order sent, unchanged." if in_order else "but NOT as sent!")
    )
    return 0 if in_order else 1
