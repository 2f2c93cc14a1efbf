# SPDX-License-Identifier: Apache-2.0
"""Creates the stream, or says what is wrong with it. Never changes one that exists."""

from __future__ import annotations

import time
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from sidecar import errors
from sidecar.command_error import NO_FIT_STREAM, CommandError
from sidecar.errors import Problem
from sidecar.jetstream.api_replies import ApiError
from sidecar.jetstream.connection import Connection
from sidecar.jetstream.requests import NoReply
from sidecar.model import stream
from sidecar.services import certificates

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
    server = settings.nats_server
    if settings.nats_inbox_prefix is None:
        server = replace(server, inbox_prefix=INBOX_PREFIX)
    async with _connected(settings, server) as connection:
        faults = stream.server_unfitness(connection.server_version)
        if faults:
            raise ProvisionError(" ".join(faults))
        info = await connection.api.stream_info()
        if info is None:
            first = first_offset or stream.first_offset(time.time(), None)
            await connection.api.create_stream(first, connection.server_version)
            return first, []
        strangers: list[str] = []
        with suppress(NoReply):  # who creates a stream need not be allowed to read it
            strangers = await _strangers(connection, info)
    plan = settings.plan
    sentences = stream.unfitness(plan, info.config, connection.server_version)
    sentences += plan.differences(info.config)
    sentences += [stream.STRANGER.format(name) for name in strangers]
    if first_offset is not None:
        sentences.append(
            f"The stream exists already: --first-offset {first_offset} was not applied."
        )
    return None, sentences


async def find_faults(settings: Settings, ends: dict[str, float]) -> list[str]:
    """Say, a sentence each, why the stream is unfit; raise Problem, ProvisionError.

    When the server's certificate ends is added to `ends`.
    """
    async with _connected(settings, settings.nats_server) as connection:
        if connection.certificate is not None:
            ends["The certificate of NATS"] = certificates.end_of(
                connection.certificate
            )
        faults = stream.server_unfitness(connection.server_version)
        if faults:
            return faults
        info = await connection.api.stream_info()
        if info is None:
            raise Problem(errors.STREAM_MISSING)
        faults = stream.unfitness(
            settings.plan,
            info.config,
            connection.server_version,
            writes=settings.role != "consumer",
        )
        if settings.role == "producer":
            return faults
        strangers = await _strangers(connection, info)
    return faults + [stream.STRANGER.format(name) for name in strangers]


async def _strangers(connection: Connection, info: StreamInfo) -> list[str]:
    """Name the other streams that answer the reads of this one; raise NoReply."""
    names = set()
    for _ in range(_TRIES if info.messages else 1):
        came = await connection.api.batch(info.position.first, 1, 1, None)
        if came.end == "stranger":
            names.add(stream.told_name(came.stranger))
    return sorted(names)


@asynccontextmanager
async def _connected(
    settings: Settings, server: NatsServer
) -> AsyncIterator[Connection]:
    connection = Connection(settings.plan, "provision")
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
