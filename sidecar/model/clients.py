# SPDX-License-Identifier: Apache-2.0
"""Who reads, and how far each has come. Pure: times and offsets come in.

A client is a hermes-client. The consumer plugin names it, in User-Agent, by Hermes'
application name: one word without a version, unlike that of curl or of a browser. A
name is what somebody says of himself, so it decides nothing.

Where a client asked last it has read all that stands before: that is what Hermes has
processed, but for the one page that the plugin asks ahead.

A client is *stranded* while the stream does not hold the offset that it asks for: it
comes again and again, and nothing but a person helps it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from sidecar import errors

if TYPE_CHECKING:
    from sidecar.errors import Cause

NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

MAX_CLIENTS: Final = 256

SILENT_SECONDS: Final = 300.0
"""A hermes-client asks again after its updateInterval, and waits at most a minute."""

GONE_SECONDS: Final = 3600.0
"""After so much silence a stranded client is taken for stopped."""

_STRANDED = frozenset({errors.OFFSET_GONE, errors.OFFSET_AHEAD})

State = Literal["reading", "waiting", "silent", "stranded"]


@dataclass
class _Memory:
    seen_at: float
    offset: int | None = None
    stranded: Cause | None = None


@dataclass(frozen=True)
class Client:
    """One client at one moment; None for what is not known.

    `offset`: of the event that it reads next; `behind`: how many events stand from
    there on, by their offsets, which says nothing of one that is stranded.
    """

    name: str
    state: State
    offset: int | None
    behind: int | None
    last_seen_seconds: float
    stranded: Cause | None = None

    def document(self) -> dict[str, Any]:
        """Give what the API and other sidecars are told of it."""
        return {
            "name": self.name,
            "offset": self.offset,
            "behind": self.behind,
            "last_seen_seconds": round(self.last_seen_seconds, 1),
            "state": self.state,
        }


class Clients:
    """Remembers the clients of this sidecar, a bounded number of them."""

    def __init__(self) -> None:
        self._all: dict[str, _Memory] = {}

    def ask(self, agent: str, offset: int | None, now: float) -> bool:
        """Note that somebody asks for an offset, None where it names none.

        Tell whether it is a client.
        """
        if not NAME.fullmatch(agent):
            return False
        memory = self._all.pop(agent, None)
        if memory is None:
            if len(self._all) >= MAX_CLIENTS:
                del self._all[next(iter(self._all))]
            memory = _Memory(now)
        self._all[agent] = memory  # the last that has asked
        memory.seen_at = now
        if offset is not None:
            memory.offset = offset
        return True

    def read(self, agent: str, offset: int, now: float) -> bool:
        """Note that it was given what stands from an offset on; tell if it is known."""
        memory = self._all.get(agent)
        if memory is None:
            return False
        memory.seen_at, memory.offset, memory.stranded = now, offset, None
        return True

    def refuse(self, agent: str, cause: Cause) -> bool:
        """Note that it was refused; tell whether it is stranded since just now."""
        memory = self._all.get(agent)
        if memory is None or cause not in _STRANDED:
            return False
        is_new, memory.stranded = memory.stranded is None, cause
        return is_new

    def look(self, last_offset: int | None, now: float) -> list[Client]:
        """Give them all by name; last_offset is the stream's, None if not known."""
        return [
            _client(name, self._all[name], last_offset, now)
            for name in sorted(self._all)
        ]


def _client(name: str, memory: _Memory, last: int | None, now: float) -> Client:
    offset, age = memory.offset, max(0.0, now - memory.seen_at)
    stranded = memory.stranded if age <= GONE_SECONDS else None
    behind = None
    if offset is not None and last is not None and memory.stranded is None:
        behind = max(0, last + 1 - offset)
    state: State = "reading"
    if stranded is not None:
        state = "stranded"
    elif age > SILENT_SECONDS:
        state = "silent"
    elif behind == 0:
        state = "waiting"
    return Client(name, state, offset, behind, age, stranded)
