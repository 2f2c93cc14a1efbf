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


def event_block(event: Event, key: str, last: int, stream: str) -> bytes:
    """Write the header block of a copy that is fenced to become last + 1."""
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
    return header_block(headers)
