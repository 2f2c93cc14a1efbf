# SPDX-License-Identifier: Apache-2.0
"""Replies that our stream did not give: odd ones, and those of a user who guesses.

Whoever knows the token of a request that waits may answer it as our server does, and
nobody could tell. A forger does not: he knows what is asked, has heard the tokens that
were answered, and counts. Odd replies are those of tests/support/odd.py, by a responder
with a bug.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from support.odd import Reply, acknowledgement, no_stream, odd, refusal

if TYPE_CHECKING:
    from random import Random

    from .jetstream import Cluster
    from .links import Link
    from .trouble import Begun

_KEPT = 50
_API_SHARE = 0.3
"""Of forgers, those that answer questions; the others answer events alone."""
_KINDS = ("publish",), ("publish",), ("batch",), ("api",), ("publish", "batch")


class Responder:
    """Answers in the place of our stream, or before it, in odd forms."""

    def __init__(self, cluster: Cluster, rng: Random) -> None:
        self._cluster = cluster
        self._rng = rng
        self._kinds = rng.choice(_KINDS)
        self._share = rng.choice((0.05, 0.2, 0.6))
        self._first_share = rng.choice((0.0, 0.5, 1.0))
        self._earlier: deque[Reply] = deque(maxlen=_KEPT)

    def answers(self, true: Reply) -> list[Reply]:
        """Give what comes to the one who asked."""
        rng = self._rng
        if true.block:
            self._earlier.append(true)
        if true.kind not in self._kinds or rng.random() >= self._share:
            return [true]
        if true.block and rng.random() < 0.3:
            return [rng.choice(self._earlier), true]  # one of another range
        reply = odd(true, self._cluster.stream, self._cluster.last, rng)
        return [reply, true] if rng.random() < self._first_share else [reply]


class Forger:
    """Sends into the inboxes of others: to old tokens, and to those he expects."""

    def __init__(self, cluster: Cluster, rng: Random) -> None:
        self._cluster = cluster
        self._rng = rng
        self._api = rng.random() < _API_SHARE
        self._answered: dict[int, str] = {}  # by link the newest subject
        self._heard: deque[Reply] = deque(maxlen=_KEPT)

    def hear(self, link: Link, subject: str, true: Reply) -> None:
        """Hear a whole answer, after which nobody waits for it any more."""
        self._heard.append(true)
        if not true.block:
            self._answered[link.number] = subject

    def guess(self, link: Link, asked: str) -> None:
        """Answer what is asked now, before anybody else does."""
        subject = self._answered.get(link.number)
        if subject is None or asked.startswith("$JS.API.") is not self._api:
            return
        inbox, _, token = subject.rpartition(".")
        number, _, secret = token.partition("_")
        following = int(number) + 1
        for guess in (token, f"{following}", f"{following}_{secret}", f"{following}_"):
            block, data = self._rng.choice(self._forged())
            link.write(f"{inbox}.{guess}", block, data)

    def _forged(self) -> list[Reply]:
        name, last = self._cluster.stream, self._cluster.last
        if self._api:
            return [self._rng.choice(self._heard), Reply(b"", no_stream())]
        return [Reply(b"", acknowledgement(name, last + 1)), Reply(b"", refusal(name))]


def odd_replies(cluster: Cluster, rng: Random) -> Begun:
    """Let some answers be odd ones."""
    end = cluster.trouble.put("responder", Responder(cluster, rng))
    return rng.uniform(0.3, 6.0), end


def forged_replies(cluster: Cluster, rng: Random) -> Begun:
    """Let another user of NATS answer what was not asked of him."""
    end = cluster.trouble.put("forger", Forger(cluster, rng))
    return rng.uniform(2.0, 10.0), end
