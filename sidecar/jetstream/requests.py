# SPDX-License-Identifier: Apache-2.0
"""Requests, and their replies over one subscription.

A reply comes to a subject that ends with its request's token, which nobody can know
before. Each request ends once: by its reply, by its time, or with the connection.
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

import nats.errors

from sidecar import errors
from sidecar.jetstream.client import status
from sidecar.model.evidence import Came

if TYPE_CHECKING:
    from collections.abc import Callable

    from sidecar.errors import Cause
    from sidecar.jetstream.api_replies import Batch
    from sidecar.jetstream.client import NatsClient

COPY_SECONDS: Final = 1.0
"""How long a copy may be silent: a frozen follower is asked on and on, and is.

Silent means that nothing came of this reply, nor of one that was asked for before it:
on a slow link they stand in line.
"""

NO_RESPONDERS: Final = "503"

_SECRETS_AT_ONCE = 256
_SECRET_DIGITS = 32  # of four bits: nobody guesses it, nor knows it from another
_KEPT_MOMENTS = 16


class NoReply(Exception):  # noqa: N818 - an absence, not an error
    """The API request was not answered; `cause` says what is known of why."""

    def __init__(self, cause: Cause = errors.JETSTREAM_UNAVAILABLE) -> None:
        super().__init__(cause.code)
        self.cause = cause


class RawReply(NamedTuple):
    """A reply as it came: the status of its headers, if it has any, and its data."""

    status: str | None
    data: bytes


RequestOutcome = RawReply | NoReply | TimeoutError
"""What came of a request."""


class _Waiting(NamedTuple):
    subject: str
    on_reply: Callable[[RequestOutcome], None]
    timer: asyncio.TimerHandle
    patience_seconds: float = 0.0  # in which something must have come; 0: no matter

    def complete(self, outcome: RequestOutcome) -> None:
        self.timer.cancel()
        self.on_reply(outcome)


@dataclass
class _Collecting:
    subject: str
    batch: Batch
    came: asyncio.Future[Came]
    noted: int = 0  # of its messages, see Requests._note_messages

    def fail(self, cause: Cause) -> None:
        if not self.came.done():
            self.came.set_exception(NoReply(cause))


class Requests:
    """What is asked over one connection, and who waits for which reply."""

    def __init__(self) -> None:
        self._inbox = ""
        self._waiting: dict[str, _Waiting] = {}
        self._batches: dict[str, _Collecting] = {}
        self._numbers = itertools.count()
        self._secrets: list[str] = []
        self._came_at: dict[int, float] = {}  # by number, of the last that were asked

    def attach(self, client: NatsClient) -> None:
        """Send by this client, which is to give what comes to on_message."""
        self._client = client
        client.on_part = self._note

    async def subscribe(self) -> None:
        """Subscribe to the replies; the client is connected by now."""
        self._inbox = self._client.new_inbox()
        await self._client.subscribe(f"{self._inbox}.*")

    @property
    def most_bytes(self) -> int:
        """How long a message of a reply may be."""
        return self._client.most_bytes

    # -- What is asked -----------------------------------------------------------------

    def ask(
        self,
        subject: str,
        payload: bytes,
        block: bytes,
        timeout_seconds: float,
        on_reply: Callable[[RequestOutcome], None],
    ) -> None:
        """Publish. `on_reply` gets what came of it, perhaps before this returns.

        What has headers is an event, whose time is its own; a reply of the API is
        waited for as long as bytes come that stand before it.
        """
        patience_seconds = 0.0 if block else timeout_seconds
        token = self._wait(subject, timeout_seconds, patience_seconds, on_reply)
        try:
            self._client.send(subject, f"{self._inbox}.{token}", payload, block)
        except nats.errors.Error:
            self._waiting.pop(token).complete(NoReply())

    def ask_together(
        self,
        subject: str,
        messages: list[tuple[bytes, bytes]],
        timeout_seconds: float,
        on_reply: Callable[[RequestOutcome], None],
    ) -> None:
        """Publish messages, each a header block and a payload.

        `on_reply` gets what came of the last one, perhaps before this returns.
        """
        token = self._wait(subject, timeout_seconds, 0.0, on_reply)
        try:
            self._client.send_together(subject, f"{self._inbox}.{token}", messages)
        except nats.errors.Error:
            self._waiting.pop(token).complete(NoReply())

    def _wait(
        self,
        subject: str,
        timeout_seconds: float,
        patience_seconds: float,
        on_reply: Callable[[RequestOutcome], None],
    ) -> str:
        """Wait for a reply; give its token."""
        token = self._token()
        timer = asyncio.get_running_loop().call_later(
            timeout_seconds, self._expire, token
        )
        self._waiting[token] = _Waiting(subject, on_reply, timer, patience_seconds)
        return token

    async def collect(self, subject: str, payload: bytes, batch: Batch) -> Came:
        """Publish, and give all that came of it until the batch was complete.

        What came stands there, too, when nothing more does for a while. Raises NoReply
        where the connection is lost or the subject refused.
        """
        token = self._token()
        loop = asyncio.get_running_loop()
        collecting = _Collecting(subject, batch, loop.create_future())
        self._batches[token] = collecting
        timer = loop.call_later(COPY_SECONDS, self._expire_batch, token)
        try:
            self._client.send(subject, f"{self._inbox}.{token}", payload)
            return await collecting.came
        except nats.errors.Error:
            raise NoReply from None
        finally:
            timer.cancel()
            self._batches.pop(token, None)

    def _token(self) -> str:
        """Give a token for a reply: its number, and what nobody can know before."""
        if not self._secrets:
            text = secrets.token_hex(_SECRETS_AT_ONCE * _SECRET_DIGITS // 2)
            starts = range(0, len(text), _SECRET_DIGITS)
            self._secrets = [text[at : at + _SECRET_DIGITS] for at in starts]
        return f"{next(self._numbers)}_{self._secrets.pop()}"

    # -- What comes --------------------------------------------------------------------

    def on_message(self, subject: str, block: bytes, data: bytes) -> None:
        """Give a message to whoever waits for it, as it comes in."""
        token = subject.rpartition(".")[2]
        if (waiting := self._waiting.get(token)) is not None:
            code = status(block) if block else None
            if block and code != NO_RESPONDERS:
                return  # no acknowledgement: these have no headers, stored messages do
            del self._waiting[token]
            waiting.complete(RawReply(code, data))
        elif (
            collecting := self._batches.get(token)
        ) is not None and not collecting.came.done():
            came = collecting.batch.add(block, data)
            if came is not None:
                self._note(subject)
                collecting.came.set_result(came)

    def _note(self, subject: str) -> None:
        """Note that something came, a message or a part of one."""
        number = _number_of(subject)
        if number is not None:
            if len(self._came_at) >= _KEPT_MOMENTS and number not in self._came_at:
                del self._came_at[next(iter(self._came_at))]
            self._came_at[number] = asyncio.get_running_loop().time()

    def _note_messages(self) -> None:
        """Note, when somebody asks, that messages have come since the last time.

        A clock read for each of a page's hundreds would take a tenth of its time.
        """
        for token, collecting in self._batches.items():
            if collecting.noted != len(collecting.batch.messages):
                collecting.noted = len(collecting.batch.messages)
                self._note(token)

    @property
    def is_coming(self) -> bool:
        """Tell whether something of a page came within the last second."""
        self._note_messages()
        since = max(self._came_at.values(), default=-COPY_SECONDS)
        return asyncio.get_running_loop().time() - since < COPY_SECONDS

    def _left_seconds(self, token: str, patience_seconds: float) -> float:
        """Tell how long to go on waiting, by what came of this or an earlier reply."""
        self._note_messages()
        own = _number_of(token) or 0
        moments = [at for number, at in self._came_at.items() if number <= own]
        since = asyncio.get_running_loop().time() - max(moments, default=0.0)
        return patience_seconds - since

    # -- What never comes --------------------------------------------------------------

    def _expire(self, token: str) -> None:
        waiting = self._waiting.get(token)
        if waiting is None:
            return
        left_seconds = 0.0
        if waiting.patience_seconds:
            left_seconds = self._left_seconds(token, waiting.patience_seconds)
        if left_seconds > 0:
            loop = asyncio.get_running_loop()
            timer = loop.call_later(left_seconds, self._expire, token)
            self._waiting[token] = waiting._replace(timer=timer)
        else:
            self._waiting.pop(token).complete(TimeoutError())

    def _expire_batch(self, token: str) -> None:
        """End a batch that is silent."""
        collecting = self._batches.get(token)
        if collecting is None or collecting.came.done():
            return
        left_seconds = self._left_seconds(token, COPY_SECONDS)
        if left_seconds > 0:
            loop = asyncio.get_running_loop()
            loop.call_later(left_seconds, self._expire_batch, token)
        else:
            collecting.came.set_result(Came(collecting.batch.messages, "late"))

    def end_all(self, cause: Cause) -> None:
        """Tell all who wait that no reply will come: the connection is lost."""
        while self._waiting:
            self._waiting.popitem()[1].complete(NoReply(cause))
        for collecting in self._batches.values():
            collecting.fail(cause)
        self._batches.clear()

    def end_refused(self, subject: str) -> bool:
        """End the request to a subject that is not permitted; False if it is not clear.

        The server names the subject in lower case and not the message. With two copies
        under way on one subject nobody can say which of them was refused.
        """
        for collecting in self._batches.values():
            if collecting.subject.lower() == subject.lower():
                collecting.fail(errors.NATS_PERMISSION)
        refused = [
            token
            for token, waiting in self._waiting.items()
            if waiting.subject.lower() == subject.lower()
        ]
        if len(refused) == 1:
            self._waiting.pop(refused[0]).complete(NoReply(errors.NATS_PERMISSION))
        return len(refused) <= 1

    def end_event(self, cause: Cause) -> None:
        """End the one event that is under way, if it is clear which one."""
        events = [
            token
            for token, waiting in self._waiting.items()
            if not waiting.patience_seconds
        ]
        if len(events) == 1:
            self._waiting.pop(events[0]).complete(NoReply(cause))


def _number_of(subject: str) -> int | None:
    """Tell as which one a reply was asked for; None for what is no token of ours."""
    number = subject.rpartition(".")[2].partition("_")[0]
    return int(number) if number.isdecimal() else None
