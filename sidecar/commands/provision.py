# SPDX-License-Identifier: Apache-2.0
"""Creates the stream, or says what is wrong with it. Never changes one that exists."""

from __future__ import annotations

import time
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from sidecar.command_error import NO_FIT_STREAM, CommandError
from sidecar.errors import Problem
from sidecar.jetstream.api_replies import ApiError
from sidecar.jetstream.connection import Connection
from sidecar.jetstream.embedded_server import running_server
from sidecar.jetstream.requests import NoReply
from sidecar.model import stream
from sidecar.settings import default_embedded_dir

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sidecar.jetstream.credentials import NatsServer
    from sidecar.model.stream import StreamInfo
    from sidecar.settings import Settings

INBOX_PREFIX: Final = "_INBOX_hermes_provision"

_TRIES = 16  # so many answers: of two who answer, each is heard


class ProvisionError(CommandError):
    """The server refused what was asked; the text says what it answered."""

    exit_status = NO_FIT_STREAM


async def provision(
    settings: Settings, first_offset: int | None
) -> tuple[int | None, list[str]]:
    """Create a missing stream and give its first offset.

    Of an existing one say instead, a sentence each, how it is unfit or differs from
    the settings. Raises Problem or ProvisionError.
    """
    server = server_of(settings)
    if settings.nats_inbox_prefix is None:
        server = replace(server, inbox_prefix=INBOX_PREFIX)
    async with connected(settings, server) as connection:
        faults = stream.server_unfitness(connection.server_version)
        if faults:
            raise ProvisionError(" ".join(faults))
        info = await connection.api.stream_info()
        if info is None:
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
    if first_offset is not None:
        sentences.append(
            f"The stream exists already: --first-offset {first_offset} was not applied."
        )
    return None, sentences


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
    settings: Settings, server: NatsServer, *, outlives_refusals: bool = False
) -> AsyncIterator[Connection]:
    """Connect for one command; raise Problem, or ProvisionError for a refusal."""
    connection = Connection(
        settings.plan, "provision", outlives_refusals=outlives_refusals
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
