# SPDX-License-Identifier: Apache-2.0
"""What the key of a producer plugin's event says. Pure.

`PROCESS` `PASS`-`ATTEMPT`-`NUMBER`, as in
`6f1c2a90-3b7e-4c1d-8a55-1795824000000000-2-17`: the first 24 characters of a UUID for
each process of hermes-server; the offset after which its pass began, which a process
that was killed hands on to the next one; which of the process' attempts to finish a
pass it is; and a number that counts its keys. In a batch the event's place follows, as
`.3`.
docs/adr/0015-a-killed-hermes-server.md.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

PROCESS: Final = re.compile(
    r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-", re.ASCII
)
PROCESS_LENGTH: Final = 24
PASS: Final = re.compile("0|[1-9][0-9]{0,15}", re.ASCII)

_NUMBER = "(?:0|[1-9][0-9]{0,17})"
_KEY = re.compile(
    f"({PROCESS.pattern})({PASS.pattern})-({_NUMBER})-{_NUMBER}"
    r"(?:\.[1-9][0-9]{0,3})?",
    re.ASCII,
)


class ProducerKey(NamedTuple):
    """Whose event it is: a process of hermes-server, its pass and its attempt at it."""

    process: str
    pass_start: int
    attempt: int


def parse_producer_key(key: str | None) -> ProducerKey | None:
    """Read a key; None if it is no plugin's, but that of a person with curl."""
    match = _KEY.fullmatch(key or "")
    return match and ProducerKey(match[1], int(match[2]), int(match[3]))


def producer_of(key: str) -> str | None:
    """Give the name of the producer whose key this is; None if it is no plugin's."""
    parsed = parse_producer_key(key)
    return parsed and parsed.process
