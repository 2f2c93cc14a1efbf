# SPDX-License-Identifier: Apache-2.0
"""What JetStream says of one copy of an event, as values. Pure.

Rule of this file: an answer is called definite only if that copy can never be stored
after it. All else is a doubt. Sources: NATS ADR-1 and ADR-50, nats-server's source.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

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
    Where the stream has several replicas it may be an old leader's word: then only what
    stands at L + 1 decides.
    """

    of_several: bool = False


@dataclass(frozen=True)
class InProcess:
    """10158: this copy was refused, another one with its id is under way."""


@dataclass(frozen=True)
class Unavailable:
    """No responder: this copy reached nobody."""


@dataclass(frozen=True)
class Refused:
    """The copy was refused for a cause that does not pass by itself."""

    cause: Cause
    jetstream_code: int | None = None


@dataclass(frozen=True)
class Undecided:
    """Somebody answered, and this copy may be stored all the same; why it may not."""

    cause: Cause
    jetstream_code: int | None = None


@dataclass(frozen=True)
class TooLarge:
    """With its headers this copy is over what server or stream allow.

    It was not sent, or the server refused it as it came (nats_errors): then the limit
    is not known.
    """

    size_bytes: int
    limit_bytes: int | None = None


@dataclass(frozen=True)
class NotSent:
    """The connection was gone before anything of this copy was written."""


@dataclass(frozen=True)
class NoAnswer:
    """The copy left and nothing came back in time."""


@dataclass(frozen=True)
class Disconnected:
    """The copy left and the connection ended before an answer."""


Answer = (
    Acknowledged
    | WrongLast
    | InProcess
    | Unavailable
    | Refused
    | Undecided
    | TooLarge
    | NotSent
    | NoAnswer
    | Disconnected
)


class _Refusal(NamedTuple):
    """What a code of JetStream means; only with a description that starts so."""

    cause: Cause
    starts: tuple[str, ...] = ("",)


_REFUSALS: Final = {
    10002: _Refusal(errors.STORAGE_FULL),
    10023: _Refusal(errors.STORAGE_FULL),
    10054: _Refusal(errors.EVENT_TOO_LARGE),
    10077: _Refusal(errors.STREAM_FULL, starts=("maximum messages", "maximum bytes")),
}
"""The definite refusals of a stream of one replica, as nats-server 2.11 to 2.15 decides
them: in processJetStreamMsg (server/stream.go), before anything is written. But 10077
is "store failed" for any reason, and a write that failed in the middle may be found
after a restart: only the two limits, which storeRawMsg (server/filestore.go) asks
first, are definite.

Of several replicas no refusal is. A leader that a partition cut off still listens on
the subject for a while, so one copy reaches it and the new leader: what the one refuses
the other may store. And a leader that applies what it proposed asks some limits again,
and may refuse what its followers store: 10023 and 10054 before 2.12, 10077 before 2.14
(#7608), 10063 always.

10060 is never our stream's: it cannot mismatch its own name. 10158 is InProcess.
"""

_PLAIN = re.compile(rb'\{"stream":"([A-Za-z0-9_-]+)", ?"seq":([0-9]{1,19})\}')
"""What almost every answer is; json takes thrice the time."""


def parse_answer(
    payload: bytes, status: str | None, stream: str, *, is_replicated: bool
) -> Answer:
    """Read the reply to a publish; `status` is the NATS status header.

    Anybody who subscribes to our subject could reply too, as another stream does, of a
    leaf node or of another account. Acknowledgements and errors name their stream: what
    does not name ours decides nothing.
    """
    if status == "503":
        return Unavailable()
    plain = _PLAIN.fullmatch(payload)
    if plain is not None and plain[1].decode() == stream:
        return Acknowledged(int(plain[2]), duplicate=False)
    document = _document(payload, stream)
    if document is None:
        return Undecided(errors.FOREIGN_ANSWER)
    if "error" in document:
        return _refusal(document["error"], is_replicated)
    sequence = document.get("seq")
    if type(sequence) is not int:
        return Undecided(errors.FOREIGN_ANSWER)
    return Acknowledged(sequence, duplicate=document.get("duplicate") is True)


def parse_commit(
    payload: bytes, stream: str, batch_id: str, last: int, count: int
) -> Answer:
    """Read the reply to the last message of an atomic batch that is to end at `last`.

    What does not acknowledge just this batch decides nothing. An error may be a former
    leader's, or that of a disk on which a part was written (10077), or say that these
    ids are stored already (10201, 10071 after the duplicate window).
    """
    document = _document(payload, stream)
    if document is None:
        return Undecided(errors.FOREIGN_ANSWER)
    found = [document.get(name) for name in ("seq", "batch", "count", "error")]
    if found == [last, batch_id, count, None] and "duplicate" not in document:
        return Acknowledged(last, duplicate=False)
    error = document.get("error")
    code = error.get("err_code") if isinstance(error, dict) else None
    return Undecided(errors.PUBLISH_REFUSED, code if isinstance(code, int) else None)


def _document(payload: bytes, stream: str) -> dict[str, object] | None:
    """Read a reply; None where it does not name our stream."""
    try:
        document = json.loads(payload)
    except (ValueError, RecursionError):
        return None
    is_ours = isinstance(document, dict) and document.get("stream") == stream
    return document if is_ours else None


def _refusal(error: object, is_replicated: bool) -> Answer:
    fields = error if isinstance(error, dict) else {}
    match fields.get("err_code"):
        case 10071:
            return WrongLast(is_replicated)
        case 10158:
            return InProcess()
        case int(code):
            known = _REFUSALS.get(code)
            text = str(fields.get("description"))
            if known is None or not text.startswith(known.starts):
                return Undecided(errors.PUBLISH_REFUSED, code)
            return (Undecided if is_replicated else Refused)(known.cause, code)
        case _:
            return Undecided(errors.PUBLISH_REFUSED)


class Position(NamedTuple):
    """Where the stream stands, as its leader says. Empty: last is first - 1."""

    first: int
    last: int


class StoredMessage(NamedTuple):
    """One message as the stream holds it; `time` is RFC 3339, the server's clock.

    `previous` is the sequence of the message before it in the same batch, 0 for none.
    `after` is the last sequence that its publish was conditional on, `initsync` what
    the header of that name says (sidecar/model/scan.py).
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
    initsync: str | None = None

    @property
    def is_displaced(self) -> bool:
        """Tell whether it stands elsewhere than its own precondition allowed.

        A publish cannot bring that about: the server put it there, as a replica of
        2.12.8 does that has refused what its leader stored (docs/nats.md).
        """
        return self.after is not None and self.after + 1 != self.sequence

    @property
    def is_readable(self) -> bool:
        """Tell whether its subject is text: STREAM.MSG.GET gives U+FFFD for the rest.

        The server stores any bytes; a batch of messages cannot be read on from there.
        """
        return "\ufffd" not in self.subject

    @property
    def category(self) -> str:
        """The last token of its subject."""
        return self.subject.rpartition(".")[2]

    def __repr__(self) -> str:
        return f"<StoredMessage {self.sequence} of {len(self.body)} bytes>"


@dataclass(frozen=True)
class Observation:
    """Where the stream stands, and the first message at or after one sequence.

    The two may come from two servers: for a moment an old leader answers, too.
    `settled_last`: see StreamMonitor.settled_last.
    """

    position: Position
    message: StoredMessage | None
    settled_last: int | None = None
