# SPDX-License-Identifier: Apache-2.0
"""What JetStream says of one copy of an event, as values. Pure.

Rule of this file: an answer is called definite only if that copy can never be stored
after it. Sources: NATS ADR-1 and ADR-50, server/stream.go, server/errors.json.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from sidecar import errors

if TYPE_CHECKING:
    from sidecar.errors import Cause


@dataclass(frozen=True)
class Acknowledged:
    """A PubAck: the stream holds a message with this id at this sequence."""

    sequence: int
    duplicate: bool


@dataclass(frozen=True)
class WrongLast:
    """10071: this copy was refused, the stream's last sequence is another.

    The figure in its text may be proposed and not yet committed: look, do not read it.
    """


@dataclass(frozen=True)
class InProcess:
    """10158: this copy was refused, another one with its id is under way."""


@dataclass(frozen=True)
class Unavailable:
    """No leader or no responder: this copy reached nobody."""


@dataclass(frozen=True)
class Refused:
    """The copy was refused for a cause that does not pass by itself."""

    cause: Cause
    jetstream_code: int | None = None


@dataclass(frozen=True)
class TooLarge:
    """Not sent: with its headers this copy is over what server or stream allow."""

    size_bytes: int
    limit_bytes: int


@dataclass(frozen=True)
class NotSent:
    """The connection was gone before anything of this copy was written."""


@dataclass(frozen=True)
class NoAnswer:
    """The copy left and nothing trustworthy came back in time."""


@dataclass(frozen=True)
class Disconnected:
    """The copy left and the connection ended before an answer."""


Answer = (
    Acknowledged
    | WrongLast
    | InProcess
    | Unavailable
    | Refused
    | TooLarge
    | NotSent
    | NoAnswer
    | Disconnected
)

_REFUSALS = {
    10023: errors.STORAGE_FULL,
    10054: errors.EVENT_TOO_LARGE,
    10060: errors.STREAM_UNFIT,
    10077: errors.STREAM_FULL,
}
_PLAIN = re.compile(rb'\{"stream":"([A-Za-z0-9_-]+)", ?"seq":([0-9]{1,19})\}')
"""What almost every answer is; json takes thrice the time."""

# 10077 is "store failed" for any reason; only these are decided before the write, the
# same on each replica. Any other (an IO error, servers before 2.12) may be partial.
_LIMITS = ("maximum messages", "maximum bytes")


def parse_answer(payload: bytes, status: str | None, stream: str) -> Answer:
    """Read the reply to a publish; `status` is the NATS status header.

    Anybody who subscribes to our subject could reply too: what is no PubAck of our
    stream is no answer.
    """
    if status == "503":
        return Unavailable()
    plain = _PLAIN.fullmatch(payload)
    if plain is not None and plain[1].decode() == stream:
        return Acknowledged(int(plain[2]), duplicate=False)
    try:
        document = json.loads(payload)
    except (ValueError, RecursionError):
        return NoAnswer()
    if not isinstance(document, dict):
        return NoAnswer()
    if isinstance(document.get("error"), dict):
        return _refusal(document["error"])
    sequence = document.get("seq")
    if document.get("stream") != stream or type(sequence) is not int:
        return NoAnswer()
    return Acknowledged(sequence, duplicate=document.get("duplicate") is True)


def _refusal(error: dict[str, object]) -> Answer:
    match error.get("err_code"):
        case 10071:
            return WrongLast()
        case 10158:
            return InProcess()
        case 10008:
            return Unavailable()
        case 10077 if not str(error.get("description")).startswith(_LIMITS):
            return NoAnswer()
        case int(code):
            return Refused(_REFUSALS.get(code, errors.PUBLISH_REFUSED), code)
        case _:
            return NoAnswer()


class Position(NamedTuple):
    """Where the stream stands, as its leader says. Empty: last is first - 1."""

    first: int
    last: int


class StoredMessage(NamedTuple):
    """One message as the stream holds it; `time` is RFC 3339, the server's clock.

    `previous` is the sequence of the message before it in the same batch, 0 for none.
    `after` is the last sequence that its publish was conditional on.
    The types of event and object are those of the headers, which whoever wrote the
    message chose; pages of events are read without them and without the key.
    """

    sequence: int
    subject: str
    key: str | None
    time: str
    body: bytes
    previous: int = 0
    type: str | None = None
    object_type: str | None = None
    after: int | None = None

    @property
    def is_displaced(self) -> bool:
        """Tell whether it stands elsewhere than its own precondition allowed.

        A publish cannot bring that about: the server put it there, as a replica of
        2.12.8 does that has refused what its leader stored (docs/nats.md).
        """
        return self.after is not None and self.after + 1 != self.sequence

    @property
    def category(self) -> str:
        """The last token of its subject."""
        return self.subject.rpartition(".")[2]

    def __repr__(self) -> str:
        return f"<StoredMessage {self.sequence} of {len(self.body)} bytes>"


@dataclass(frozen=True)
class Sight:
    """Where the stream stands, and the first message at or after one sequence.

    The two may come from two servers: for a moment an old leader answers, too.
    `settled_last`: see Bus.settled_last.
    """

    position: Position
    message: StoredMessage | None
    settled_last: int | None = None
