# SPDX-License-Identifier: Apache-2.0
"""From the bytes of a request to what is to be published. Pure."""

from __future__ import annotations

import json
import re
import sys
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sidecar import errors
from sidecar.errors import Outcome, Problem

if TYPE_CHECKING:
    from collections.abc import Callable

    from sidecar.model.scan import Scan

LAST: Final = "*"
"""The precondition that any last offset meets."""

CATEGORY: Final = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
KEY: Final = re.compile(r"[A-Za-z0-9._:-]{1,128}", re.ASCII)
ENTITY_TAG: Final = re.compile(r'"(0|[1-9][0-9]{0,15})"', re.ASCII)

MAX_OFFSET: Final = 2**53 - 1
"""Beyond it who reads a JSON number or a metric as a float reads another offset."""

START_BYTES: Final = 8192
"""How much of a body is looked at to know whose event it is."""

MAX_DEPTH: Final = 100
"""How deep JSON may be nested. Python's own limit depends on who calls: on a sidecar's
short stack it takes 990 levels, in a hermes-client, which copies attributes too, a
third of that."""
SHOWN: Final = ("evcategory", "eventtype", "objtype")
"""The members that are metadata."""

_ATTRIBUTES = b'"objattrs":'
"""Comes after what names the object. In a JSON string its quotes would be escaped."""


class Event(NamedTuple):
    """One Hermes event, with what may be shown of it and its bytes unchanged.

    `type` and `object_type` are None where Hermes gives none, or where the value is
    no plain name and so might be something else than metadata. `scan`: where
    hermes-client's scan stands after it; of the category initsync alone, once known.
    """

    category: str
    type: str | None
    object_type: str | None
    body: bytes
    scan: Scan | None = None

    def __repr__(self) -> str:
        return f"<Event {self.category} {self.type} of {len(self.body)} bytes>"


class Object(NamedTuple):
    """Whose event it is. `name` is the type of the object, else that of the event.

    `key` is the primary key as JSON: payload, never to be shown or kept.
    """

    category: str
    name: str
    key: str

    def __repr__(self) -> str:
        return f"<Object of {self.category} {self.name}>"


def parse_head(start: bytes) -> dict[str, Any]:
    """Read what comes before the attributes; nothing where it is not as Hermes has it.

    Its members may be anything: only their names are known.
    """
    head, found, _ = start[:START_BYTES].partition(_ATTRIBUTES)
    try:
        document = json.loads(head.decode("utf-8") + '"objattrs": 0}') if found else {}
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def parse_object(start: bytes) -> Object | None:
    """Read whose event it is from the start of a body, which may be all that came.

    None where it is not written as Hermes writes it.
    """
    document = parse_head(start)
    category = plain_name(document.get("evcategory"))
    name = plain_name(document.get("objtype") or document.get("eventtype"))
    if category is None or name is None:
        return None
    return Object(category, name, json.dumps(document.get("objpkey"), sort_keys=True))


def parse_event(body: bytes) -> Event:
    """Read category, type and object type; raise Problem for what is no event.

    JSON is what Python's json accepts, NaN and lone surrogates included: Hermes emits
    them, and refusing its event would block it for ever.
    """
    return _read_event(body, json.loads)


def parse_large_event(body: bytes) -> Event:
    """Do the same, and no arithmetic: a number of 4,000 digits takes its time."""
    return _read_event(body, _LARGE.decode)


def _read_event(body: bytes, read: Callable[[str], Any]) -> Event:
    try:
        document = read(body.decode("utf-8"))
    except ValueError:
        raise Problem(errors.MALFORMED_JSON, Outcome.NOT_STORED) from None
    except RecursionError:
        raise too_deep() from None
    if body.count(b"[") + body.count(b"{") > MAX_DEPTH and is_deep(document):
        raise too_deep()
    if not isinstance(document, dict):
        raise Problem(errors.MALFORMED_JSON, Outcome.NOT_STORED)
    return make_event(document, body)


def _skip_int(digits: str) -> None:
    most = sys.get_int_max_str_digits()
    if 0 < most < len(digits.removeprefix("-")):
        raise ValueError


_LARGE = json.JSONDecoder(parse_int=_skip_int)


def make_event(document: dict[str, Any], body: bytes) -> Event:
    """Give the event of a body that was read; only SHOWN is looked at."""
    category = plain_name(document.get("evcategory"))
    if category is None:
        raise Problem(errors.ILLEGAL_CATEGORY, Outcome.NOT_STORED)
    return Event(
        category=category,
        type=plain_name(document.get("eventtype")),
        object_type=plain_name(document.get("objtype")),
        body=body,
    )


def is_deep(document: object) -> bool:
    """Tell whether JSON is nested deeper than allowed.

    A process of its own runs this text, too (services/large_events.py).
    """
    level: list[Any] = [[document]]
    for _ in range(MAX_DEPTH + 1):
        level = [
            value
            for one in level
            for value in (one.values() if isinstance(one, dict) else one)
            if isinstance(value, (dict, list))
        ]
        if not level:
            return False
    return True


def too_large(size_bytes: int, limit_bytes: int) -> Problem:
    """Say how large an event may be."""
    return Problem(
        errors.EVENT_TOO_LARGE,
        Outcome.NOT_STORED,
        size_bytes=size_bytes,
        limit_bytes=limit_bytes,
    )


def too_wide() -> Problem:
    """Say that so many values are no event's."""
    return Problem(errors.TOO_WIDE, Outcome.NOT_STORED)


def too_deep() -> Problem:
    """Say how deep an event may be nested."""
    return Problem(errors.TOO_DEEP, Outcome.NOT_STORED, depth_limit=MAX_DEPTH)


def parse_key(header: str | None) -> str:
    """Read the Idempotency-Key, with or without the quotes of its IETF draft."""
    if header is None:
        raise Problem(errors.NO_KEY, Outcome.NOT_STORED)
    key = header.removeprefix('"').removesuffix('"')
    if not KEY.fullmatch(key):
        raise Problem(errors.MALFORMED_KEY, Outcome.NOT_STORED)
    return key


def parse_precondition(header: str | None) -> int | str:
    """Read If-Match (RFC 9110 13.1.1): the last offset the caller knows, or LAST."""
    if header is None:
        raise Problem(errors.PRECONDITION_REQUIRED, Outcome.NOT_STORED)
    if header == LAST:
        return LAST
    match = ENTITY_TAG.fullmatch(header)
    if match is None or (offset := int(match[1])) > MAX_OFFSET:
        raise Problem(errors.MALFORMED_PRECONDITION, Outcome.NOT_STORED)
    return offset


def plain_name(value: object) -> str | None:
    """Give a value that may be shown as metadata; None for any other."""
    return value if isinstance(value, str) and CATEGORY.fullmatch(value) else None
