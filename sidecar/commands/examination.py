# SPDX-License-Identifier: Apache-2.0
"""Looks at NATS, the stream and the permissions as these settings meet them.

Nothing is stored. What cannot be known is said to be not known.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from sidecar import errors
from sidecar.command_error import NO_FIT_STREAM, NO_NATS, OK
from sidecar.commands.http_client import DaemonError, document_at
from sidecar.commands.provision import connected, server_of, strangers
from sidecar.errors import Problem
from sidecar.jetstream.permissions import lacking, needed
from sidecar.model import stream
from sidecar.model.wanted import parse_timestamp
from sidecar.services import certificates
from sidecar.settings import PREFIX

if TYPE_CHECKING:
    from sidecar.jetstream.connection import Connection
    from sidecar.jetstream.permissions import Permission
    from sidecar.model.stream import StreamInfo
    from sidecar.settings import Settings

State = Literal["ok", "note", "not known", "fault"]

LARGE_BYTES: Final = 8 * 1024 * 1024
CLOCK_SECONDS: Final = 1.0

_NANOSECONDS: Final = 10**9
_DAY_SECONDS: Final = 86_400
_EMBEDDED_SYNC = "sync_interval is always: an acknowledged event survives a power loss."
_UNKNOWN_SYNC = (
    "The server tells it to no client. It must be always, see docs/nats.md. "
    "--nats-monitor asks the server's monitoring port."
)


class Finding(NamedTuple):
    """What was found of one thing; a fault has the exit status that it leads to."""

    name: str
    state: State
    text: str
    exit_status: int = OK


class Examination:
    """What was found so far, also where an exception ends it."""

    def __init__(self, settings: Settings, nats_monitor: str | None = None) -> None:
        self.findings: list[Finding] = []
        self._settings = settings
        self._nats_monitor = nats_monitor

    @property
    def exit_status(self) -> int:
        """Of the first fault."""
        statuses = (each.exit_status for each in self.findings)
        return next(filter(None, statuses), OK)

    def add(
        self, name: str, state: State, text: str, exit_status: int = NO_FIT_STREAM
    ) -> None:
        """Add a finding; the exit status is of no matter but to a fault."""
        status = exit_status if state == "fault" else OK
        self.findings.append(Finding(name, state, text, status))

    async def run(self) -> None:
        """Look at everything; raise CommandError or Problem where it ends before."""
        settings = self._settings
        server = server_of(settings)
        connecting = connected(settings, server, outlives_refusals=True)
        async with connecting as connection:
            self.add("connection", "ok", _whom(connection))
            faults = stream.server_unfitness(connection.server_version)
            for sentence in faults:
                self.add("version", "fault", sentence)
            self._note_certificates(connection)
            permissions = needed(
                settings.role,
                settings.plan,
                server.inbox_prefix,
                creates=settings.stream_create,
            )
            lacks = await lacking(connection, permissions)
            self._note_permissions(permissions, lacks)
            self._note_sync(connection)
            if faults:
                return
            subjects = {each.subject for each in lacks}
            name = settings.stream
            if subjects & {
                f"{server.inbox_prefix}.>",
                f"$JS.API.STREAM.INFO.{name}",
            }:
                text = "Without these permissions the stream cannot be looked at."
                self.add("stream", "not known", text)
                return
            before = time.time()
            info = await connection.api.stream_info()
            if info is None:
                raise Problem(errors.STREAM_MISSING)
            self._note_clock(info, before, time.time())
            self._note_stream(connection, info)
            may_read = f"$JS.API.DIRECT.GET.{name}" not in subjects
            if settings.role != "producer" and may_read:
                for each in await strangers(connection, info):
                    self.add("mirror", "fault", stream.STRANGER.format(each))

    def _note_certificates(self, connection: Connection) -> None:
        ends = certificates.ends(self._settings)
        named = {PREFIX + name: end for name, end in ends.items()}
        if (shown := connection.certificate) is not None:
            named["The certificate of NATS"] = certificates.end_of(shown)
        for is_due, sentence in certificates.says(named, time.time()):
            self.add("certificate", "note" if is_due else "ok", sentence)

    def _note_permissions(
        self, permissions: list[Permission], lacks: list[Permission]
    ) -> None:
        for each in lacks:
            verb = "publish" if each.kind == "publish" else "subscribe"
            text = f"The NATS user may not {verb} to {each.subject}"
            if each.without:
                self.add("permission", "note", f"{text}: {each.without}.")
            else:
                text += ": grant it, see docs/nats.md."
                self.add("permission", "fault", text, NO_NATS)
        granted = [each.subject for each in permissions if each not in lacks]
        if granted:
            text = f"Tried and granted to role {self._settings.role}: "
            text += ", ".join(dict.fromkeys(granted)) + "."
            self.add("permissions", "ok", text)

    def _note_sync(self, connection: Connection) -> None:
        if self._settings.embedded:
            self.add("sync", "ok", _EMBEDDED_SYNC)
            return
        if self._nats_monitor is None:
            self.add("sync", "not known", _UNKNOWN_SYNC)
            return
        try:
            found = document_at(f"{self._nats_monitor.rstrip('/')}/varz")
            whose, config = found["server_name"], found["jetstream"]["config"]
        except (DaemonError, KeyError, TypeError):
            text = "No NATS server answers at --nats-monitor, with JetStream."
            self.add("sync", "not known", text)
            return
        if whose != connection.server_name:
            text = f"--nats-monitor is of another server, {whose}. "
        else:
            text = ""
        if config.get("sync_always"):
            self.add("sync", "ok", text + _EMBEDDED_SYNC)
            return
        seconds = config.get("sync_interval", 0) / _NANOSECONDS
        text += (
            f"sync_interval is {seconds:g} s: a power loss can take the acknowledged "
            "events of that time. Set it to always."
        )
        self.add("sync", "note", text)

    def _note_clock(self, info: StreamInfo, before: float, after: float) -> None:
        try:
            told = parse_timestamp(info.answered_at).timestamp()
        except ValueError:
            self.add("clock", "not known", "The server does not tell its time.")
            return
        ahead, doubt = told - (before + after) / 2, (after - before) / 2
        text = f"That of the stream's leader differs by {ahead:+.3f} s from this one"
        text += f" (within {doubt:.3f} s)."
        if abs(ahead) - doubt <= CLOCK_SECONDS:
            self.add("clock", "ok", text)
        else:
            text += " Set both by NTP: ages and delays are wrong by that."
            self.add("clock", "note", text)

    def _note_stream(self, connection: Connection, info: StreamInfo) -> None:
        settings, config = self._settings, info.config
        faults = stream.unfitness(
            settings.plan,
            config,
            connection.server_version,
            writes=settings.role != "consumer",
        )
        for sentence in faults:
            self.add("stream", "fault", sentence)
        position = info.position
        text = f"{settings.stream} holds {info.messages} messages, "
        if info.messages:
            text += f"offsets {position.first} to {position.last}, "
        else:
            text += f"its next offset is {position.last + 1}, "
        text += f"{info.size_bytes} bytes."
        self.add("stream", "ok", text)
        self._note_replicas(info)
        age_days = config.get("max_age", 0) / _NANOSECONDS / _DAY_SECONDS
        limits = [
            f"{name} {config[name]}"
            for name in ("max_bytes", "max_msgs")
            if config.get(name, -1) > 0
        ]
        text = f"{age_days:g} days" if age_days else "for ever"
        text += f"; {', '.join(limits) or 'no limit of size'}."
        if info.is_full:
            text += " The stream is full: nothing can be stored. Raise this limit."
        state: State = "fault" if info.is_full else "ok"
        self.add("retention", state, f"Events stay {text}")
        connection.stream_limit_bytes = config.get("max_msg_size", -1)
        self._note_payload(connection.limit_bytes)

    def _note_replicas(self, info: StreamInfo) -> None:
        text = f"{info.live_replicas} of {info.replicas} are live."
        if not info.has_leader:
            self.add("replicas", "fault", "The stream has no leader.")
        elif not info.has_majority:
            self.add("replicas", "fault", text)
        elif info.live_replicas < info.replicas:
            self.add("replicas", "note", text)
        else:
            self.add("replicas", "ok", text)

    def _note_payload(self, limit_bytes: int) -> None:
        wanted = self._settings.max_event_bytes
        text = f"An event may have {limit_bytes} bytes with its headers"
        if self._settings.role == "consumer" or limit_bytes >= (wanted or LARGE_BYTES):
            self.add("payload", "ok", f"{text}.")
        elif wanted:
            text += ", less than SIDECAR_MAX_EVENT_BYTES: raise max_payload of NATS, "
            self.add("payload", "note", f"{text}or max_msg_size of the stream.")
        else:
            text += ". Photos and the schema may be larger: max_payload should be 8MB."
            self.add("payload", "note", text)


def _whom(connection: Connection) -> str:
    name = f"{connection.server_name} {connection.server_version}".strip()
    return f"{connection.url}, nats-server {name}."
