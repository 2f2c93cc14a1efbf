# SPDX-License-Identifier: Apache-2.0
"""What replies of the JetStream API say, read strictly. Pure.

Any server may send anything: what is not of our server's form, or was not asked for,
raises an exception of whatever kind, or ends the batch.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeVar

from sidecar.jetstream.client import header_fields, only, status
from sidecar.jetstream.headers import (
    AFTER_HEADER,
    INITSYNC_HEADER,
    KEY_HEADER,
    OBJECT_TYPE_HEADER,
    PRECONDITION_HEADER,
    TYPE_HEADER,
)
from sidecar.model.evidence import Came
from sidecar.model.publish_reply import StoredMessage
from sidecar.model.stream import StreamInfo, StreamPlan, parse_stream_info

if TYPE_CHECKING:
    from collections.abc import Callable

_T = TypeVar("_T")

_TYPES: Final = {
    "STREAM.INFO": "stream_info",
    "STREAM.CREATE": "stream_create",
    "STREAM.DELETE": "stream_delete",
    "STREAM.MSG.GET": "stream_msg_get",
}
_OF_BATCH = (
    b"Nats-Sequence",
    b"Nats-Subject",
    b"Nats-Time-Stamp",
    b"Nats-Last-Sequence",
    PRECONDITION_HEADER,
    AFTER_HEADER,
)
_FIELDS = only(*_OF_BATCH)
_FIELDS_AND_KEY = only(*_OF_BATCH, KEY_HEADER)
_STREAM_FIELD = b"\r\nNats-Stream: "
_MAX_SEQUENCE = 2**64 - 1


class ApiError(Exception):
    """JetStream answered a request with an error."""

    def __init__(self, code: int, description: str) -> None:
        super().__init__(f"JetStream error {code}: {description}")
        self.code = code


def parse(
    name: str, data: bytes, read: Callable[[dict[str, Any]], _T]
) -> _T | ApiError:
    """Read the reply to a request of this name, by `read` where it is no error."""
    document = json.loads(data)
    if document["type"] != f"io.nats.jetstream.api.v1.{_TYPES[name]}_response":
        raise ValueError
    if "error" not in document:
        return read(document)
    return ApiError(
        int(document["error"].get("err_code", 0)),
        str(document["error"].get("description", "")),
    )


def read_info(plan: StreamPlan, document: dict[str, Any]) -> StreamInfo:
    """Read a reply of STREAM.INFO; raise ValueError for another stream's."""
    for name in ("first_seq", "last_seq", "messages", "bytes"):
        _integer(document["state"][name])
    _string(document["created"])
    info = parse_stream_info(document)
    planned = plan.config(first_offset=1)
    if info.config["name"] != plan.name or any(
        type(info.config.get(name, value)) is not type(value)
        for name, value in planned.items()
    ):
        raise ValueError
    return info


def read_message(request: dict[str, Any], document: dict[str, Any]) -> StoredMessage:
    """Read a reply of STREAM.MSG.GET; raise ValueError for what was not asked."""
    message = document["message"]
    fields = header_fields(_bytes(message.get("hdrs", "")))
    read = StoredMessage(
        sequence=_integer(message["seq"]),
        subject=_string(message["subject"]),
        key=_text(fields, KEY_HEADER),
        time=_string(message["time"]),
        body=_bytes(message.get("data", "")),
        type=_text(fields, TYPE_HEADER),
        object_type=_text(fields, OBJECT_TYPE_HEADER),
        after=_after(fields),
        initsync=_text(fields, INITSYNC_HEADER),
    )
    subject = request.get("next_by_subj", request.get("last_by_subj", ">"))
    is_exact = "seq" in request and "next_by_subj" not in request
    least = request.get("seq", 0)
    if (
        read.sequence < least
        or (is_exact and read.sequence != least)
        or subject not in (">", read.subject)
    ):
        raise ValueError
    return read


@dataclass
class Batch:
    """What was asked of a batched direct get (NATS ADR-31), and what has come of it."""

    stream: str
    limit: int
    left_bytes: int
    subject: str  # of all its messages; empty for any
    with_keys: bool = False
    messages: list[StoredMessage] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.named = b"%s%s\r\n" % (_STREAM_FIELD, self.stream.encode())

    def add(self, block: bytes, data: bytes) -> Came | None:
        """Add a message; give what came if it was the last one.

        Each names its stream, in the last field of that name: one before it was stored.
        Where the newest of a subject was asked for, the end mark says where the stream
        ended. What it counts as pending proves nothing: some may have aged out since.
        """
        messages, code = self.messages, status(block)
        if code is not None:
            last = 0
            if code == "204" and messages:
                last = _number(header_fields(block), b"Nats-UpTo-Sequence") or 0
            return Came(messages, "marked", last)
        named_at = block.rfind(_STREAM_FIELD)
        if named_at < 0 or not block.startswith(self.named, named_at):
            whose = _text(header_fields(block), b"Nats-Stream") or ""
            return Came(messages, "stranger", stranger=whose)
        fields = header_fields(block, _FIELDS_AND_KEY if self.with_keys else _FIELDS)
        try:
            message = StoredMessage(
                sequence=int(fields[b"Nats-Sequence"]),
                subject=fields[b"Nats-Subject"].decode(),
                key=_text(fields, KEY_HEADER),
                time=fields[b"Nats-Time-Stamp"].decode(),
                body=data,
                previous=int(fields[b"Nats-Last-Sequence"]),
                after=_after(fields),
            )
        except (KeyError, ValueError):
            return Came(messages, "unreadable")
        if not self.admits(message):
            return Came(messages, "unreadable")
        messages.append(message)
        return None

    def admits(self, message: StoredMessage) -> bool:
        """Tell whether it was asked for. Its place is for `evidence` to judge."""
        self.left_bytes -= len(message.body)
        return (
            len(self.messages) < self.limit
            and self.left_bytes >= 0
            and (message.subject == self.subject or not self.subject)
        )


def _integer(value: object) -> int:
    if type(value) is not int or not 0 <= value <= _MAX_SEQUENCE:
        raise ValueError
    return value


def _string(value: object) -> str:
    if type(value) is not str:
        raise ValueError
    return value


def _bytes(value: object) -> bytes:
    return base64.b64decode(_string(value), validate=True)


def _text(fields: dict[bytes, bytes], name: bytes) -> str | None:
    value = fields.get(name)
    return None if value is None else value.decode("utf-8", "replace")


def _after(fields: dict[bytes, bytes]) -> int | None:
    is_first = PRECONDITION_HEADER in fields  # of its batch, or it was sent alone
    return _number(fields, PRECONDITION_HEADER if is_first else AFTER_HEADER)


def _number(fields: dict[bytes, bytes], name: bytes) -> int | None:
    value = fields.get(name, b"")
    return int(value) if value.isdigit() else None
