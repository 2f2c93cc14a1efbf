# SPDX-License-Identifier: Apache-2.0
"""What goes over the wire of the modelled JetStream, and what it stores. Pure.

Texts are those of real servers: tests/simulation/test_simulated_jetstream.py compares.
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from pydantic_core import to_json

if TYPE_CHECKING:
    from .links import Origin

KEY: Final = b"Nats-Msg-Id"
EXPECTED_STREAM: Final = b"Nats-Expected-Stream"
EXPECTED_LAST: Final = b"Nats-Expected-Last-Sequence"
BATCH: Final = b"Nats-Batch-Id"
BATCH_SEQUENCE: Final = b"Nats-Batch-Sequence"
BATCH_COMMIT: Final = b"Nats-Batch-Commit"

NANOSECONDS: Final = 1_000_000_000
_VERSION_LINE = b"NATS/1.0\r\n"
_RECORD_BYTES = 30  # fileStoreMsgSizeRaw in server/filestore.go: 22 + checksum
_HEADER_SIZE_BYTES = 4
ZERO_TIME: Final = "0001-01-01T00:00:00Z"


class Refusal(NamedTuple):
    """An error of the JetStream API (server/errors.json)."""

    code: int
    err_code: int
    description: str

    @property
    def document(self) -> dict[str, object]:
        """Give it as the API writes it."""
        return {
            "code": self.code,
            "err_code": self.err_code,
            "description": self.description,
        }


BAD_REQUEST: Final = Refusal(400, 10003, "bad request")
UNAVAILABLE: Final = Refusal(503, 10008, "JetStream system temporarily unavailable")
NO_RESOURCES: Final = Refusal(503, 10023, "insufficient resources")
NO_ACCOUNT_RESOURCES: Final = Refusal(
    400, 10002, "resource limits exceeded for account"
)
NO_MESSAGE: Final = Refusal(404, 10037, "no message found")
TOO_LARGE: Final = Refusal(400, 10054, "message size exceeds maximum allowed")
NAME_IN_USE: Final = Refusal(
    400, 10058, "stream name already in use with a different configuration"
)
NO_STREAM: Final = Refusal(404, 10059, "stream not found")
OTHER_STREAM: Final = Refusal(400, 10060, "expected stream does not match")
IN_PROCESS: Final = Refusal(409, 10158, "duplicate message id is in process")
FENCE_IN_BATCH: Final = Refusal(400, 10164, "wrong last sequence")
BATCHES_DISABLED: Final = Refusal(400, 10174, "atomic publish is disabled")
BATCH_INCOMPLETE: Final = Refusal(400, 10176, "atomic publish batch is incomplete")
BATCH_TOO_LARGE: Final = Refusal(400, 10199, "atomic publish batch is too large: 1000")
DUPLICATE_IN_BATCH: Final = Refusal(
    400, 10201, "atomic publish batch contains duplicate message id"
)
TOO_MANY_BATCHES: Final = Refusal(429, 10210, "atomic publish too many inflight")
FULL_OF_MESSAGES: Final = Refusal(503, 10077, "maximum messages exceeded")
FULL_OF_BYTES: Final = Refusal(503, 10077, "maximum bytes exceeded")
WRITE_FAILED: Final = Refusal(503, 10077, "write error: no space left on device")


def wrong_last(last: int) -> Refusal:
    """Refuse a publish whose fence names another last sequence."""
    return Refusal(400, 10071, f"wrong last sequence: {last}")


def refusal_of_publish(refusal: Refusal, stream: str) -> bytes:
    """Write the answer to a publish that is refused."""
    code, err_code, description = refusal
    error = f'{{"code":{code},"err_code":{err_code},"description":"{description}"}}'
    return f'{{"error":{error},"stream":"{stream}","seq":0}}'.encode()


def acknowledgement(
    stream: str,
    sequence: int,
    version: tuple[int, int],
    *,
    duplicate: bool = False,
    domain: str = "",
    batch: list[Publish] | None = None,
) -> bytes:
    """Write a PubAck; servers before 2.12 put spaces into it."""
    space = " " if version < (2, 12) else ""
    whose = f'"stream":"{stream}",{space}'
    if domain:
        whose += f'"domain":"{domain}",{space}'
    tail = ',"duplicate": true' if duplicate else ""
    if batch:
        tail = f',"batch":"{batch[0].batch}","count":{len(batch)}'
    return f'{{{whose}"seq":{sequence}{tail}}}'.encode()


def no_responders(subject: str, version: tuple[int, int]) -> bytes:
    """Write the header block that says nobody listens; 2.12 began to name what to."""
    if version < (2, 12):
        return b"NATS/1.0 503\r\n\r\n"
    return b"NATS/1.0 503\r\nNats-Subject: %s\r\n\r\n" % subject.encode()


def fields_of(block: bytes) -> dict[bytes, bytes]:
    """Read a header block; the first line is its version and status."""
    fields = {}
    for line in block.split(b"\r\n")[1:]:
        name, colon, value = line.partition(b":")
        if colon:
            fields[name] = value.strip()
    return fields


class Publish(NamedTuple):
    """One copy of a message on its way into the stream; `last` is -1 if unreadable."""

    subject: str
    body: bytes
    block: bytes
    key: str | None
    stream: str | None
    last: int | None
    origin: Origin | None
    batch: str | None = None
    number: int = 0  # in its batch, from 1
    commits: bool = False

    @property
    def size_bytes(self) -> int:
        """What max_msg_size and max_payload count."""
        return len(self.block) + len(self.body)


def read_publish(
    subject: str, body: bytes, block: bytes, origin: Origin | None
) -> Publish:
    """Read what a publish asks for.

    An empty Nats-Expected-Last-Sequence is none, what is no number is -1
    (knowledge of nats-server 2.15.1; getExpectedLastSeq in server/stream.go).
    """
    if not block:
        return Publish(subject, body, block, None, None, None, origin)
    fields = fields_of(block)
    last = fields.get(EXPECTED_LAST)
    expected = None
    if last:
        expected = int(last) if last.isdigit() else -1
    return Publish(
        subject,
        body,
        block,
        _text(fields.get(KEY)),
        _text(fields.get(EXPECTED_STREAM)),
        expected,
        origin,
        _text(fields.get(BATCH)),
        int(fields.get(BATCH_SEQUENCE, b"0")),
        BATCH_COMMIT in fields,
    )


def _text(value: bytes | None) -> str | None:
    return value.decode("utf-8", "replace") if value else None


class StoredMessage(NamedTuple):
    """One message as the stream holds it."""

    sequence: int
    subject: str
    key: str | None
    time_ns: int
    body: bytes
    block: bytes

    @property
    def headers(self) -> dict[bytes, bytes]:
        """Its header fields."""
        return fields_of(self.block)

    @property
    def time(self) -> float:
        """Seconds since 1970, by the clock of the leader that took it."""
        return self.time_ns / NANOSECONDS

    @property
    def size_bytes(self) -> int:
        """What it takes in a file store."""
        return stored_bytes(self.subject, self.block, self.body)

    def read(self, stream: str, *more: tuple[str, object]) -> bytes:
        """Write the header block of a direct get (ADR-31)."""
        fields: tuple[tuple[str, object], ...] = (
            ("Nats-Stream", stream),
            ("Nats-Subject", self.subject),
            ("Nats-Sequence", self.sequence),
            ("Nats-Time-Stamp", rfc3339(self.time_ns)),
            *more,
        )
        head = self.block[:-2] if self.block else _VERSION_LINE
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields)
        return head + lines.encode() + b"\r\n"


def stored_bytes(subject: str, block: bytes, body: bytes) -> int:
    """Give what a message takes in a file store."""
    headers = _HEADER_SIZE_BYTES + len(block) if block else 0
    return _RECORD_BYTES + len(subject) + headers + len(body)


def rfc3339(time_ns: int) -> str:
    """Write a time as Go does, without zeros at its end."""
    seconds, rest = divmod(time_ns, NANOSECONDS)
    return f"{_second(seconds)}.{rest:09}".rstrip("0").rstrip(".") + "Z"


@lru_cache(maxsize=256)
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def nanoseconds(text: str) -> int:
    """Read a time in RFC 3339; Python itself stops at microseconds."""
    when = datetime.fromisoformat(text)
    fraction = text.partition(".")[2].rstrip("Z").partition("+")[0]
    whole = int(when.replace(microsecond=0).timestamp())
    return whole * NANOSECONDS + int(fraction.ljust(9, "0")[:9] or 0)


def status_block(status: str, *fields: tuple[str, object]) -> bytes:
    """Write a header block with an inline status."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields)
    return f"NATS/1.0 {status}\r\n{lines}\r\n".encode()


def api_answer(kind: str, **members: Any) -> bytes:
    """Write an answer of the JetStream API; three times as fast as json.dumps does."""
    return to_json({"type": f"io.nats.jetstream.api.v1.{kind}_response", **members})
