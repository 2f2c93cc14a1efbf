# SPDX-License-Identifier: Apache-2.0
"""A Hermes Event as far as a bus plugin sees it, in Hermes' JSON (v1.0.9)."""

from __future__ import annotations

import base64
import datetime as dt
import json
import re
from typing import Any

_BYTES = re.compile(r"HermesBytes\([^)]*\)")
_DATETIME = re.compile(r"HermesDatetime\(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ\)")
_KEYS = (
    "evcategory",
    "eventtype",
    "objtype",
    "objpkey",
    "objattrs",
    "step",
    "isPartiallyProcessed",
)


class Event:
    """One change of one object; offset and timestamp come from the bus."""

    def __init__(self, **values: Any) -> None:
        self.evcategory: str | None = values.get("evcategory")
        self.eventtype: str | None = values.get("eventtype")
        self.objtype: str | None = values.get("objtype")
        self.objpkey: Any = values.get("objpkey")
        if isinstance(self.objpkey, list):
            self.objpkey = tuple(self.objpkey)
        self.objattrs: dict[str, Any] = values.get("objattrs") or {}
        self.step: int = values.get("step", 0)
        self.isPartiallyProcessed: bool = values.get("isPartiallyProcessed", False)
        self.offset: int | None = None
        self.timestamp = dt.datetime(1, 1, 1)  # noqa: DTZ001 - Hermes' are naive

    def to_json(self) -> str:
        """Give the event as Hermes writes it: indented, ASCII."""
        return json.dumps(
            {key: getattr(self, key) for key in _KEYS}, default=_encode, indent=4
        )

    @classmethod
    def from_json(cls, data: str | dict[str, Any]) -> Event:
        """Read what to_json wrote, or take what was read of it as it is."""
        if isinstance(data, dict):
            return cls(**data)
        return cls(**json.loads(data, object_hook=_decode))


def _encode(value: Any) -> str:
    if isinstance(value, bytes):
        return f"HermesBytes({base64.b64encode(value).decode('ascii')})"
    if isinstance(value, dt.datetime):
        return f"HermesDatetime({value.isoformat(timespec='seconds')}Z)"
    raise TypeError(type(value).__name__)


def _decode(value: dict[str, Any]) -> dict[str, Any]:
    return {key: _decode_value(item) for key, item in value.items()}


def _decode_value(value: Any) -> Any:
    if isinstance(value, list):
        return [_decode_value(item) for item in value]
    if not isinstance(value, str):
        return value
    if _BYTES.fullmatch(value):
        return base64.b64decode(value[12:-1])
    if _DATETIME.fullmatch(value):
        return dt.datetime.fromisoformat(value[15:-2])
    return value
