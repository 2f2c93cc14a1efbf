# SPDX-License-Identifier: Apache-2.0
"""The headers that an event has in the stream, and how a copy is sent with them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sidecar.jetstream.client import header_block

if TYPE_CHECKING:
    from sidecar.model.event import Event

KEY_HEADER: Final = b"Nats-Msg-Id"
TYPE_HEADER: Final = b"Hermes-Event-Type"
OBJECT_TYPE_HEADER: Final = b"Hermes-Object-Type"
PRECONDITION_HEADER: Final = b"Nats-Expected-Last-Sequence"
INITSYNC_HEADER: Final = b"Hermes-Initsync"
AFTER_HEADER: Final = b"Hermes-Expected-Last-Sequence"
"""What PRECONDITION_HEADER would say, where nats-server allows none: in an atomic batch
after its first message (10164). Only a reader looks at it."""

BATCH_HEADER: Final = b"Nats-Batch-Id"
BATCH_SEQUENCE_HEADER: Final = b"Nats-Batch-Sequence"
BATCH_COMMIT_HEADER: Final = b"Nats-Batch-Commit"


def event_block(event: Event, key: str, last: int, stream: str) -> bytes:
    """Write the header block of a copy that is fenced to become last + 1."""
    return header_block(_fields(event, key, last, stream))


def batch_blocks(
    events: list[tuple[str, Event]], last: int, stream: str, batch_id: str
) -> list[bytes]:
    """Write those of an atomic batch (NATS ADR-50) that is fenced to begin at last + 1.

    nats-server stores all of it or nothing, and acknowledges the last message alone.
    """
    blocks = []
    for number, (key, event) in enumerate(events, 1):
        fields = _fields(event, key, last + number - 1, stream)
        if number > 1:
            fields[AFTER_HEADER] = fields.pop(PRECONDITION_HEADER)
        fields[BATCH_HEADER] = batch_id.encode()
        fields[BATCH_SEQUENCE_HEADER] = b"%d" % number
        if number == len(events):
            fields[BATCH_COMMIT_HEADER] = b"1"
        blocks.append(header_block(fields))
    return blocks


def _fields(event: Event, key: str, last: int, stream: str) -> dict[bytes, bytes]:
    headers = {
        KEY_HEADER: key.encode(),
        b"Nats-Expected-Stream": stream.encode(),
        PRECONDITION_HEADER: b"%d" % last,
    }
    if event.type is not None:
        headers[TYPE_HEADER] = event.type.encode()
    if event.object_type is not None:
        headers[OBJECT_TYPE_HEADER] = event.object_type.encode()
    if event.scan is not None and (scan := event.scan.header) is not None:
        headers[INITSYNC_HEADER] = scan.encode()
    return headers
