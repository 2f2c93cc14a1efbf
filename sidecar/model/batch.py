# SPDX-License-Identifier: Apache-2.0
"""Events of an initsync in one request, as a JSON text sequence (RFC 7464). Pure.

Each text stands between RS and LF. RFC 7464 lets a reader pass over what is incomplete
or empty; here that may be an event that was lost on the way, so the whole batch is
refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sidecar import errors
from sidecar.errors import Outcome, Problem
from sidecar.model.scan import INITSYNC

if TYPE_CHECKING:
    from sidecar.model.event import Event

MEDIA_TYPE: Final = b"application/json-seq"
MAX_EVENTS: Final = 1_000
MAX_BYTES: Final = 1024 * 1024
"""Of the body of a request."""

ADDED: Final = "added"
RECORD_SEPARATOR: Final = b"\x1e"
_LINE_FEED = b"\n"


def split(body: bytes) -> list[bytes]:
    """Give the texts of a sequence, byte for byte; raise Problem if it is none."""
    head, *texts = body.split(RECORD_SEPARATOR, MAX_EVENTS + 1)
    if head or not 0 < len(texts) <= MAX_EVENTS or len(body) > MAX_BYTES:
        raise not_a_batch()
    for index, text in enumerate(texts, 1):
        if not text.endswith(_LINE_FEED):
            raise not_a_batch(index)
    return [text[:-1] for text in texts]


def check(event: Event) -> None:
    """Raise Problem unless it is an object of an initsync.

    No client takes these before their init-stop, and Hermes does not take them for
    stored before that either; every other event has a meaning of its own.
    """
    if (event.category, event.type) != (INITSYNC, ADDED):
        raise not_a_batch()


def key_of(key: str, index: int) -> str:
    """Give the key of the event that is to become L + index, so the first is 1."""
    return f"{key}.{index}"


def not_a_batch(index: int | None = None) -> Problem:
    """Say what a batch is; `index` is that of the first event which is not of one."""
    members = {} if index is None else {"index": index}
    return Problem(errors.NOT_A_BATCH, Outcome.NOT_STORED, **members)
