# SPDX-License-Identifier: Apache-2.0
"""Atomic batches (NATS ADR-50) that a modelled leader holds until they are committed.

processJetStreamAtomicBatchMsg in server/stream.go. What a leader staged is lost when it
leads no more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from .messages import (
    BATCH_INCOMPLETE,
    BATCH_TOO_LARGE,
    BATCHES_DISABLED,
    DUPLICATE_IN_BATCH,
    FENCE_IN_BATCH,
    IN_PROCESS,
    OTHER_STREAM,
    TOO_MANY_BATCHES,
    Publish,
    Refusal,
    wrong_last,
)

if TYPE_CHECKING:
    from .store import Store

MOST_EVENTS: Final = 1_000
MOST_BATCHES: Final = 50
STAGED_SECONDS: Final = 10.0


class Staged:
    """The batches that are not committed yet, each with when its newest part came."""

    def __init__(self, config: dict[str, Any]) -> None:
        self._config = config
        self._batches: dict[str, tuple[float, list[Publish]]] = {}

    def clear(self) -> None:
        """Lose all."""
        self._batches.clear()

    def add(self, publish: Publish, now: float) -> list[Publish] | Refusal | None:
        """Stage a part; give the whole batch if this one commits it."""
        if not self._config.get("allow_atomic"):
            return BATCHES_DISABLED
        assert publish.batch is not None
        self._batches = {
            name: each
            for name, each in self._batches.items()
            if now - each[0] < STAGED_SECONDS
        }
        _, parts = self._batches.pop(publish.batch, (0.0, []))
        if not parts and publish.number == 1 and len(self._batches) >= MOST_BATCHES:
            return TOO_MANY_BATCHES
        if not parts and publish.number > MOST_EVENTS:
            return BATCH_TOO_LARGE
        if publish.number != len(parts) + 1:
            return BATCH_INCOMPLETE
        if publish.number > MOST_EVENTS:
            return BATCH_TOO_LARGE
        parts = [*parts, publish]
        if publish.commits:
            return parts
        self._batches[publish.batch] = now, parts
        return None


def check_batch(
    batch: list[Publish], store: Store, last: int, now_ns: int, name: str
) -> Refusal | None:
    """Say why a whole batch is refused; `last` is the last that is proposed.

    checkMsgHeadersPreClusteredProposal: of each message first its id, then the rest.
    """
    keys: set[str] = set()
    for number, publish in enumerate(batch):
        if publish.stream not in (None, name):
            return OTHER_STREAM
        if publish.key is not None:
            known = store.known(publish.key, now_ns)
            if publish.key in keys or known:
                return DUPLICATE_IN_BATCH
            if known is not None:
                return IN_PROCESS
            keys.add(publish.key)
        if publish.last is not None and publish.last != last + number:
            return wrong_last(last + number)
        if publish.last is not None and number:
            return FENCE_IN_BATCH
    return None
