# SPDX-License-Identifier: Apache-2.0
"""The clients of all sidecars: what each answers, and whether all have. Pure.

What another answers is input from a network: any program that may listen for the
question can answer. What is odd is left out, and nothing follows from the rest but
what people are shown.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, NamedTuple, get_args

from sidecar.model.clients import MAX_CLIENTS, NAME, Client, State
from sidecar.model.event import MAX_OFFSET

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

KNOWN_SECONDS: Final = 60.0
"""How long a sidecar that answers no more is missed."""

MAX_SIDECARS: Final = 256
MAX_SHOWN: Final = 4096
"""Of clients of other sidecars, together."""

MAX_ANSWER_BYTES: Final = 64 * 1024
"""As much as MAX_CLIENTS clients with long names take."""

_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_HOST: Final = re.compile(r"[A-Za-z0-9._-]{1,253}")
_NOT_IN_HOSTS: Final = re.compile(r"[^A-Za-z0-9._-]")
_STATES: Final = frozenset(get_args(State))
_OWN_ALONE: Final = "only clients of this sidecar are known"
_MOST_SECONDS: Final = 1e9


class Seen(NamedTuple):
    """A client, and the host of the sidecar that it asks."""

    sidecar: str
    client: Client

    def document(self) -> dict[str, Any]:
        """Give it as the API does."""
        name = {"name": self.client.name}  # first, for people
        return name | {"sidecar": self.sidecar} | self.client.document()


@dataclass(frozen=True)
class Answer:
    """What a sidecar answers: who it is, its clients, the stream's next offset."""

    id: str
    host: str
    clients: Sequence[Client]
    next_offset: int | None = None


@dataclass
class _Heard:
    answer: Answer
    since: float  # when the question was asked that it answered first
    at: float


@dataclass(frozen=True)
class Everyone:
    """The clients that are known, and why these may not be all; None if they are."""

    clients: Sequence[Seen] = ()
    reason: str | None = None


class Sidecars:
    """Remembers which sidecars of one stream answer, a bounded number of them."""

    def __init__(self, own_id: str, own_host: str, stream: str) -> None:
        self._own_id = own_id
        self._own_host = own_host
        self._stream = stream
        self._heard: dict[str, _Heard] = {}
        self._asked_at = -math.inf
        self._has_left_out = False
        self._answer_count = 0  # since it was asked last
        self._is_known = False  # who is to answer

    def ask(self, now: float) -> None:
        """Note that all are asked from now on; forget who has long been silent."""
        self._asked_at = now
        self._has_left_out = False
        self._answer_count = 0
        self._heard = {
            id_: heard
            for id_, heard in self._heard.items()
            if now - heard.at <= KNOWN_SECONDS
        }
        self._is_known = self._own_id in self._heard

    def hear(self, data: bytes, now: float) -> None:
        """Take an answer, if it is one for this stream."""
        self._answer_count += 1
        if self._answer_count > MAX_SIDECARS:  # who answers may do so for ever
            self._has_left_out = True
            return
        answer = read_answer(data, self._stream)
        if answer is None:
            return
        before = self._heard.pop(answer.id, None)
        shown = sum(len(each.answer.clients) for each in self._heard.values())
        if len(self._heard) >= MAX_SIDECARS or shown + len(answer.clients) > MAX_SHOWN:
            self._has_left_out = True
            return
        since = before.since if before else self._asked_at
        self._heard[answer.id] = _Heard(answer, since, now)

    def have_all_answered(self) -> bool:
        """Tell whether this one was heard and nobody else is missed.

        Not of the first question for a while: nobody knows then who is to answer.
        """
        return (
            self._is_known and self._has_answered(self._own_id) and not self._missed()
        )

    def look(
        self, own: Sequence[Client], lacks: Collection[str], now: float
    ) -> Everyone:
        """Give the clients of this sidecar, and of each that has answered.

        `lacks` names the permissions that the user of this one does not have.
        """
        seen = [Seen(self._own_host, client) for client in own]
        for id_, heard in self._heard.items():
            if id_ != self._own_id and self._has_answered(id_):
                age = now - heard.at
                host = heard.answer.host
                seen += [Seen(host, _older(each, age)) for each in heard.answer.clients]
        seen.sort(key=lambda each: (each.client.name, each.sidecar))
        return Everyone(seen, self._reason(lacks))

    def _reason(self, lacks: Collection[str]) -> str | None:
        if lacks:
            return (
                f"The NATS user lacks a permission for {' and '.join(sorted(lacks))}, "
                f"see docs/nats.md: {_OWN_ALONE}."
            )
        if not self._has_answered(self._own_id):
            return f"NATS does not respond: {_OWN_ALONE}."
        if hosts := self._missed():
            return f"The sidecar on {', '.join(hosts)} did not answer."
        if self._has_left_out:
            return "There are more sidecars or clients than can be shown."
        return None

    def _missed(self) -> list[str]:
        """Give the hosts whose sidecar has not answered, and no later one there has."""
        since = {
            heard.answer.host: heard.since
            for id_, heard in self._heard.items()
            if self._has_answered(id_)
        }
        return sorted(
            {
                heard.answer.host
                for id_, heard in self._heard.items()
                if not self._has_answered(id_)
                and since.get(heard.answer.host, -math.inf) <= heard.at
            }
        )

    def _has_answered(self, id_: str) -> bool:
        return id_ in self._heard and self._heard[id_].at >= self._asked_at


def host_name(name: str) -> str:
    """Write the name of a host so that each sidecar takes it for one.

    Linux allows any: a machine that was given none is called (none).
    """
    return _NOT_IN_HOSTS.sub("-", name)[:253] or "-"


def _older(client: Client, age_seconds: float) -> Client:
    return replace(client, last_seen_seconds=client.last_seen_seconds + age_seconds)


def read_answer(data: bytes, stream: str) -> Answer | None:
    """Read what a sidecar of this stream answers; None for anything else."""
    if len(data) > MAX_ANSWER_BYTES:
        return None
    try:
        document = json.loads(data)
        id_, metadata = document["id"], document["metadata"]
        host = metadata["host"]
        if not (_ID.fullmatch(id_) and _HOST.fullmatch(host)):
            return None
        if metadata["stream"] != stream:
            return None
        data_of_stats = document["endpoints"][0]["data"]
        rows, next_offset = data_of_stats["clients"], data_of_stats.get("next_offset")
        clients = {each.name: each for each in map(_client, rows[:MAX_CLIENTS]) if each}
    except (ValueError, TypeError, LookupError, RecursionError):
        return None
    known = next_offset if _is_count(next_offset) else None
    return Answer(id_, host, list(clients.values()), known)


def _client(row: Any) -> Client | None:
    try:
        name, state, age = row["name"], row["state"], row["last_seen_seconds"]
        offset, behind = row["offset"], row["behind"]
        is_sound = (
            NAME.fullmatch(name)
            and state in _STATES
            and _is_count(offset)
            and _is_count(behind)
            and type(age) in (int, float)
            and 0 <= age <= _MOST_SECONDS
        )
    except (TypeError, LookupError):
        return None
    return Client(name, state, offset, behind, float(age)) if is_sound else None


def _is_count(value: object) -> bool:
    return value is None or (type(value) is int and 0 <= value <= MAX_OFFSET)
