# SPDX-License-Identifier: Apache-2.0
"""What somebody looks for among the stored events, as it is typed. Pure."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

_AGO: Final = re.compile(r"([0-9]{1,9})([smhd])", re.ASCII)
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_PLAIN: Final = re.compile(r"[A-Za-z0-9]+", re.ASCII)
_JSON: Final = ("[", "{", '"')


@dataclass(frozen=True)
class ObjectKey:
    """An object's primary key: its text, or the texts of a composite one's parts.

    1234 is the number and the text "1234": who asks sees the key in another program,
    which may show both alike, and objects of one type have keys of one type.
    """

    texts: str | tuple[str, ...]

    @property
    def hint(self) -> str:
        """What the JSON of each event with this key contains; it may be empty.

        Letters and digits alone: the rest may be escaped in more than one way.
        """
        parts = (self.texts,) if isinstance(self.texts, str) else self.texts
        plain = [run for part in parts for run in _PLAIN.findall(part)]
        return max(plain, key=len, default="")

    def matches(self, value: object) -> bool:
        """Compare with the `objpkey` of an event."""
        return self.texts == _texts(value)


@dataclass(frozen=True)
class Wanted:
    """Which events to find. Only the reader of the stream sees to the category."""

    category: str | None = None
    object_type: str | None = None
    key: ObjectKey | None = None
    since: datetime | None = None
    until: datetime | None = None

    @property
    def hint(self) -> str:
        """What the JSON of each event that is wanted contains; it may be empty."""
        return (self.key and self.key.hint) or self.object_type or ""

    def find(self, timestamp: str, data: str) -> dict[str, Any] | None:
        """Read an event, or give None where it is not wanted.

        What is cheap comes first: of a million events almost all end there. Of what is
        no JSON object there is nothing to see.
        """
        if self.since is not None and parse_timestamp(timestamp) < self.since:
            return None
        if self.is_over(timestamp):
            return None
        if self.object_type is not None and self.object_type not in data:
            return None
        if self.key is not None and self.key.hint not in data:
            return None
        event = _parse(data)
        if self.object_type not in (None, event.get("objtype")):
            return None
        if self.key is not None and not self.key.matches(event.get("objpkey")):
            return None
        return event

    def is_over(self, timestamp: str) -> bool:
        """Tell whether this time is after the last that is wanted."""
        return self.until is not None and parse_timestamp(timestamp) > self.until


def parse_timestamp(text: str) -> datetime:
    """Read the time of a stored event, to the microsecond."""
    return datetime.fromisoformat(text)


def read_key(text: str) -> ObjectKey:
    """Read a key: its text, or JSON; raise ValueError with a sentence.

    What begins like JSON and is none was bitten off by a shell: as a text it would be
    found nowhere.
    """
    if not text:
        raise ValueError("must not be empty")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = text
    is_list = isinstance(value, list)
    if isinstance(value, str):
        is_understood = value != text or not text.startswith(_JSON)
    else:
        is_understood = not any(
            isinstance(part, (dict, list)) for part in (value if is_list else [value])
        )
    if not is_understood:
        raise ValueError(
            "begins like JSON: it must be a text or a list of texts and numbers, in "
            "single quotes for the shell"
        )
    # The text of a number is as it was typed: 1e3 is not 1000.0.
    return ObjectKey(_texts(value) if is_list or isinstance(value, str) else text)


def read_time(text: str, now: datetime) -> datetime:
    """Read RFC 3339, or how long ago; raise ValueError with a sentence."""
    try:
        if ago := _AGO.fullmatch(text):
            return now - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
        at = datetime.fromisoformat(text)
        if at.tzinfo is not None:
            return at.astimezone(UTC)
    except (ValueError, OverflowError):
        pass
    raise ValueError(
        "must be a time with its zone, as 2026-11-28T16:00:00Z, or how long ago, as "
        "30m, 2h or 3d"
    )


def _texts(value: object) -> str | tuple[str, ...]:
    if isinstance(value, list):
        return tuple(map(_text, value))
    return _text(value)


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _parse(data: str) -> dict[str, Any]:
    try:
        event = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return event if isinstance(event, dict) else {}
