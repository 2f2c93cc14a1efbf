# SPDX-License-Identifier: Apache-2.0
"""Creates the stream, or says what is wrong with it. Never changes one that exists."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from sidecar import errors
from sidecar.command_error import NO_FIT_STREAM, CommandError
from sidecar.commands.http_client import DaemonError, client, document_of
from sidecar.errors import Problem
from sidecar.jetstream.api_replies import ApiError
from sidecar.jetstream.connection import Connection
from sidecar.jetstream.embedded_server import running_server
from sidecar.jetstream.requests import NoReply
from sidecar.jetstream.service import Asker
from sidecar.model import stream
from sidecar.model.health import highest
from sidecar.model.sidecars import read_answer
from sidecar.settings import default_embedded_dir

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sidecar.jetstream.credentials import NatsServer
    from sidecar.model.stream import StreamInfo
    from sidecar.settings import Settings

INBOX_PREFIX: Final = "_INBOX_hermes_provision"

_TRIES = 16  # so many answers: of two who answer, each is heard


_ANSWER_SECONDS = 0.5

_UNUSED: Final = (
    "It has never held an event: stop the sidecars, delete it (nats stream rm {}), and "
    "run this again."
)


class OlderStreamError(CommandError):
    """The stream is missing, and somebody knows of one: it may have been lost."""

    exit_status = NO_FIT_STREAM

    def __init__(self, offset: int, wanted: int | None) -> None:
        text = (
            f"Sidecars or clients know this stream up to the next offset {offset}: it "
            "was deleted or lost. If there is a backup, restore it first: it needs the "
            f"name to be free. If there is none, --first-offset {offset} lets clients "
            "go on that had read everything; see docs/operations.md. "
        )
        if wanted is None:
            text += "At an offset of its own choice all clients would have to be reset."
        else:
            text += f"From {wanted} on offsets would be used a second time."
        text += " --yes does it nevertheless."
        super().__init__(text)


class ProvisionError(CommandError):
    """The server refused what was asked; the text says what it answered."""

    exit_status = NO_FIT_STREAM


async def provision(
    settings: Settings,
    first_offset: int | None,
    *,
    even_if_lost: bool = False,
    server: NatsServer | None = None,
) -> tuple[int | None, list[str]]:
    """Create a missing stream and give its first offset.

    Of an existing one say instead, a sentence each, how it is unfit or differs from
    the settings. One whose next offset is the wanted first one is as good as a new
    one. `server` is another than that of the settings. Raises Problem,
    ProvisionError, and OlderStreamError unless `even_if_lost`.
    """
    server = server or server_of(settings)
    if settings.nats_inbox_prefix is None:
        server = replace(server, inbox_prefix=INBOX_PREFIX)
    asker = Asker()
    async with connected(settings, server, service=asker) as connection:
        faults = stream.server_unfitness(connection.server_version)
        if faults:
            raise ProvisionError(" ".join(faults))
        info = await connection.api.stream_info()
        if info is None:
            if not even_if_lost:
                await _refuse_if_lost(settings, asker, first_offset)
            first = first_offset or stream.first_offset(time.time(), None)
            await connection.api.create_stream(first, connection.server_version)
            return first, []
        others: list[str] = []
        with suppress(NoReply):  # who creates a stream need not be allowed to read it
            others = await strangers(connection, info)
    plan = settings.plan
    sentences = stream.unfitness(plan, info.config, connection.server_version)
    sentences += plan.differences(info.config)
    sentences += [stream.STRANGER.format(name) for name in others]
    following = info.position.last + 1
    if first_offset not in (None, following):
        sentence = (
            f"The stream exists already, and its next offset is {following}, not "
            f"{first_offset}: nothing was changed."
        )
        if info.is_unused:
            sentence += f" {_UNUSED.format(settings.stream)}"
        sentences.append(sentence)
    return None, sentences


async def _refuse_if_lost(settings: Settings, asker: Asker, wanted: int | None) -> None:
    """Raise OlderStreamError if somebody knows of an older stream.

    Sidecars are asked over NATS, where this user may, and the one beside us over HTTP.
    An offset that no client has read yet needs no question.
    """
    asker.ask()
    known = await asyncio.to_thread(_known_to_daemon, settings)
    await asyncio.sleep(_ANSWER_SECONDS)
    answers = [read_answer(data, settings.stream) for data in asker.answers]
    for answer in filter(None, answers):
        offsets = [] if answer.next_offset is None else [answer.next_offset]
        known.append(highest(offsets, answer.clients))
    offset = max(filter(None, known), default=None)
    if offset is not None and (wanted is None or wanted < offset):
        raise OlderStreamError(offset, wanted)


def _known_to_daemon(settings: Settings) -> list[int | None]:
    """Ask the daemon of the same settings, if one runs and misses its stream."""
    try:
        with client(settings, is_probe=True) as http:
            document = document_of(http, "/health")
        reasons = {each["name"]: each["reason"] for each in document["checks"]}
        is_missed = str(reasons["stream"]).startswith(errors.STREAM_MISSING.title)
        last = document["last_offset"]
        return [last + 1] if is_missed and type(last) is int else []
    except (DaemonError, KeyError, TypeError):
        return []


async def strangers(connection: Connection, info: StreamInfo) -> list[str]:
    """Name the other streams that answer the reads of this one; raise NoReply."""
    names = set()
    for _ in range(_TRIES if info.messages else 1):
        came = await connection.api.batch(info.position.first, 1, 1, None)
        if came.end == "stranger":
            names.add(stream.told_name(came.stranger))
    return sorted(names)


def server_of(settings: Settings) -> NatsServer:
    """Give the server of these settings, which may be embedded in another sidecar.

    Raises EmbeddedError.
    """
    if not settings.embedded:
        return settings.nats_server
    directory = settings.embedded_dir or default_embedded_dir()
    return running_server(directory, settings.nats_server.inbox_prefix)


@asynccontextmanager
async def connected(
    settings: Settings,
    server: NatsServer,
    *,
    service: Asker | None = None,
    outlives_refusals: bool = False,
) -> AsyncIterator[Connection]:
    """Connect for one command; raise Problem, or ProvisionError for a refusal."""
    connection = Connection(
        settings.plan, "provision", service=service, outlives_refusals=outlives_refusals
    )
    await connection.open(server)
    try:
        yield connection
    except ApiError as error:
        raise ProvisionError(f"The NATS server refused the request: {error}.") from None
    except NoReply as absence:
        problem = Problem(absence.cause)
        problem.faults = connection.faults
        raise problem from None
    finally:
        await connection.close()
