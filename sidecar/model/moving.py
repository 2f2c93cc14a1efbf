# SPDX-License-Identifier: Apache-2.0
"""Where hermes-clients stand on the bus that they leave. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from sidecar.model.event import MAX_OFFSET

if TYPE_CHECKING:
    from collections.abc import Sequence

_START: Final = "initstartoffset"
_STOP: Final = "initstopoffset"
_NEXT: Final = "nextoffset"


class Moving(NamedTuple):
    """One client: the offset that it reads next; None where it has no initsync yet."""

    name: str
    next_offset: int | None
    is_initialised: bool


class CacheError(ValueError):
    """What was read is no hermes-client's cache."""


def read_cache(name: str, document: object) -> Moving:
    """Read what hermes-client keeps of itself (`_hermes-client-NAME.json`).

    A client whose initsync is not read to its end is not initialised, by Hermes' own
    rule (hermes-client, `__hasAlreadyBeenInitialized`). Raises CacheError.
    """
    content = document.get("content") if isinstance(document, dict) else None
    if not isinstance(content, dict) or _NEXT not in content:
        raise CacheError("it has no nextoffset")
    start, stop, following = (_offset(content, key) for key in (_START, _STOP, _NEXT))
    if start is None or following is None:
        return Moving(name, None, is_initialised=False)
    return Moving(name, following, stop is not None and following >= stop)


def _offset(content: dict[str, object], key: str) -> int | None:
    offset = content.get(key)
    if offset is None or (type(offset) is int and offset >= 0):
        return offset
    raise CacheError("its offsets are no integers")


def first_offset(clients: Sequence[Moving], end: int | None) -> tuple[int, list[str]]:
    """Give the first offset of the new bus, and a sentence for each who is not there.

    `end` is the old bus' own next offset, where it is known: all clients may be behind
    it. A client without an initsync needs no offset. Raises CacheError.
    """
    known = [each.next_offset for each in clients if each.next_offset is not None]
    if not known and end is None:
        raise CacheError("No client has read anything: there is nothing to move over.")
    highest = max(known, default=0)
    if end is not None and highest > end:
        raise CacheError(
            f"A client is at {highest}, but the bus ends at {end}: this is not the bus "
            "that it reads."
        )
    first = end or highest
    if not 1 <= first <= MAX_OFFSET:
        raise CacheError(f"The offset {first} is not one from 1 to {MAX_OFFSET}.")
    return first, [_what_lacks(each, first) for each in clients if _lacks(each, first)]


def _lacks(client: Moving, first: int) -> bool:
    if client.next_offset is None:
        return False
    return not client.is_initialised or client.next_offset < first


def _what_lacks(client: Moving, first: int) -> str:
    if not client.is_initialised:
        return (
            f"{client.name} has not read its initsync to the end: let it run until it "
            f"is at {first}."
        )
    behind = first - (client.next_offset or 0)
    return (
        f"{client.name} is {behind} behind: let it run on the old bus until it is at "
        f"{first}."
    )
