# SPDX-License-Identifier: Apache-2.0
"""Odd answers among those of a nats-server, and others that nobody asked for.

What another user of NATS can send, or a responder with a bug: never an answer of the
right form to the token of a request that waits.
"""

from __future__ import annotations

import re
from collections import deque
from typing import TYPE_CHECKING, Final

from support.odd import Reply, acknowledgement, no_stream, odd, refusal

if TYPE_CHECKING:
    from random import Random

STREAM: Final = "hermes"
_ANSWER: Final = re.compile(rb"H?MSG (_INBOX\S+) (\S+) (?:(\d+) )?(\d+)\r\n")
_ACKNOWLEDGED: Final = re.compile(rb'\{"stream":"hermes", ?"seq":(\d+)')
_KEPT: Final = 50


class Forger:
    """Spoils answers of a server to one sidecar's connections."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._heard: deque[Reply] = deque(maxlen=_KEPT)
        self._last = 0

    def spoil(self, buffer: bytes) -> tuple[bytes, int]:
        """Spoil the answer that the buffer begins with; tell how many bytes it lacks.

        Nothing that begins elsewhere looks like one: events are JSON.
        """
        line = _ANSWER.match(buffer)
        if line is None:
            return buffer, 0
        end = line.end() + int(line[4]) + len(b"\r\n")
        if len(buffer) < end:
            return buffer, end - len(buffer)
        split = line.end() + int(line[3] or 0)
        true = Reply(buffer[line.end() : split], buffer[split : end - len(b"\r\n")])
        self._heard.append(true)
        acknowledged = _ACKNOWLEDGED.match(true.data)
        self._last = int(acknowledged[1]) if acknowledged else self._last
        return self._spoilt(line, true, buffer[:end]) + buffer[end:], 0

    def _spoilt(self, line: re.Match[bytes], true: Reply, whole: bytes) -> bytes:
        subject, number = line[1], line[2]
        match self._rng.choice(("before", "instead", "replay", "forged")):
            case "replay" if true.block:
                earlier = [each for each in self._heard if each.block]
                return frame(subject, number, self._rng.choice(earlier)) + whole
            case "forged":
                return whole + self._forged(subject, number)
            case place:
                reply = odd(true, STREAM, self._last, self._rng)
                replaced = frame(subject, number, reply)
                return replaced if place == "instead" else replaced + whole

    def _forged(self, subject: bytes, number: bytes) -> bytes:
        """Answer once more, and what he takes for the next requests."""
        inbox, _, token = subject.rpartition(b".")
        count, _, secret = token.partition(b"_")
        following = range(int(count) + 1, int(count) + 4)
        guesses = [
            token,
            *(b"%d" % each for each in following),
            *(b"%d_%b" % (each, secret) for each in following),
        ]
        datas = acknowledgement(STREAM, self._last + 1), refusal(STREAM), no_stream()
        replies = [*(Reply(b"", data) for data in datas), *self._heard]
        return b"".join(
            frame(b"%b.%b" % (inbox, guess), number, self._rng.choice(replies))
            for guess in guesses
        )


def frame(subject: bytes, number: bytes, reply: Reply) -> bytes:
    """Write a message as the server does, to a subscription of that number."""
    block, data = reply
    if block:
        sizes = b"%d %d" % (len(block), len(block) + len(data))
        return b"HMSG %b %b %b\r\n%b%b\r\n" % (subject, number, sizes, block, data)
    return b"MSG %b %b %d\r\n%b\r\n" % (subject, number, len(data), data)
