# SPDX-License-Identifier: Apache-2.0
"""Producers that store or fail, one second after the other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.errors import Outcome, Problem
from sidecar.model.event import parse_event
from sidecar.model.producers import Failures

from .sidecar import event, plugin_key

if TYPE_CHECKING:
    from sidecar.errors import Cause
    from sidecar.model.producers import Failure

Q = "0a1b2c3d-4e5f-4a6b-9c7d-"
CURL = "7e2d3c4b-5a6f-4d1e-9b8c-a1b2c3d4e5f6"


def key(producer: str, count: int) -> str:
    return plugin_key(count, producer)


def problem(cause: Cause) -> Problem:
    return Problem(cause, Outcome.NOT_STORED)


class Story:
    """Producers that store or fail, one second after the other."""

    def __init__(self) -> None:
        self.failures = Failures()
        self.now = 1000.0
        self._count = 0

    def stored(
        self, name: str, pkey: object = 1, category: str = "base", **of: object
    ) -> None:
        body = event(category, objpkey=pkey, **of)
        self.failures.record_stored(self._key(name), parse_event(body), self._tick())

    def failed(
        self,
        name: str,
        problem: Problem,
        pkey: object = 1,
        category: str = "base",
        key: str | None = None,
        **of: object,
    ) -> str:
        key, now = key or self._key(name), self._tick()
        body = event(category, objpkey=pkey, **of)
        self.failures.record_failure(key, problem, body, now, now)
        return key

    def opened(
        self, name: str, last_pass: str = "", cause: Cause | None = None
    ) -> None:
        self.failures.record_open(name + last_pass, self._tick(), cause)

    @property
    def worst(self) -> Failure | None:
        return self.failures.worst(self.now)

    def _key(self, name: str) -> str:
        self._count += 1
        return name if name == CURL else key(name, self._count)

    def _tick(self) -> float:
        self.now += 1
        return self.now
