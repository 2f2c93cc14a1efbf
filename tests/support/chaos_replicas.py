# SPDX-License-Identifier: Apache-2.0
"""Rows of a stream's replicas, right and damaged."""

from __future__ import annotations

import json

from chaos.checker import Message


def body(
    value: int, kind: str = "modified", category: str = "base", pkey: int = 1
) -> bytes:
    event = {
        "evcategory": category,
        "eventtype": kind,
        "objtype": "Users",
        "objpkey": pkey,
        "objattrs": {"modified": {"value": value}},
    }
    return json.dumps(event).encode()


def copy(*placed: tuple[int, int]) -> list[Message]:
    """Make a copy of events by number and expected last, from offset 1 on."""
    return [
        Message(offset, f"key {number}", body(number), expected)
        for offset, (number, expected) in enumerate(placed, 1)
    ]


RIGHT = copy((1, 0), (2, 1), (3, 2))
TWICE = copy((1, 0), (2, 1), (2, 1), (3, 2))
