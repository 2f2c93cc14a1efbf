# SPDX-License-Identifier: Apache-2.0
"""Which replicas their own server damaged, and what the others hold. Pure.

Each publish is conditional on the stream's last sequence, and the message keeps that
sequence in a header. The replicas of a stream apply one log, so a message that stands
elsewhere in one of them than right behind that sequence was put there by the server.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .checker import Message

_PAIRS: Final = 5


@dataclass(frozen=True)
class Damage:
    """One replica with displaced messages; `pairs` are sequence and expected last."""

    replica: str
    first_offset: int
    count: int
    pairs: tuple[tuple[int, int], ...]
    fault: str = ""

    def __str__(self) -> str:
        pairs = ", ".join(f"{offset} (last {last})" for offset, last in self.pairs)
        return (
            f"replica {self.replica}: {self.count} events stand elsewhere than their "
            f"precondition allowed, from {self.first_offset} on: {pairs}"
        )


@dataclass(frozen=True)
class Replicas:
    """The stream to check, and the replicas that are proven to be damaged."""

    messages: Sequence[Message]
    damages: list[Damage]
    violations: list[str]


def compare(copies: Mapping[str, Sequence[Message]]) -> Replicas:
    """Find the stream: what a majority holds in which every message is in its place.

    A replica that differs from it is proven to be damaged by displaced messages alone.
    """
    found = {name: _damage(name, copy) for name, copy in copies.items()}
    sound = [copy for name, copy in copies.items() if found[name] is None]
    damages = [damage for damage in found.values() if damage is not None]
    if 2 * len(sound) > len(copies) and all(copy == sound[0] for copy in sound):
        return Replicas(sound[0], damages, [])
    first = next(iter(copies.values()))
    different = [
        f"replica {name} holds another stream"
        for name, copy in copies.items()
        if copy != first
    ]
    return Replicas(first, [], different + [f"{damage}" for damage in damages])


def _damage(name: str, copy: Sequence[Message]) -> Damage | None:
    pairs = tuple(
        (message.offset, message.expected)
        for message in copy
        if message.expected is not None and message.expected + 1 != message.offset
    )
    return Damage(name, pairs[0][0], len(pairs), pairs[:_PAIRS]) if pairs else None
