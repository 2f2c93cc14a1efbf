# SPDX-License-Identifier: Apache-2.0
"""A sidecar as a NATS service (NATS ADR-32), and its question to all of its kind.

`nats micro ls` shows the sidecars. What each knows of its clients is in the data of its
STATS, so one question gets it from all.

nats-py's own `micro` cannot be used on this connection: it flushes, which `connection`
forbids; it waits at subscriptions, which `client` passes by; and it tells nobody which
permission is missing.

Who asks names the subject of the answer, and our user may publish where the one who
asks may not: on the subjects of events, for example. So only inboxes are answered.
"""

from __future__ import annotations

import json
import math
import re
import secrets
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from sidecar import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Send = Callable[[str, str, bytes], bool]
    """Publishes to a subject, with where to reply to; tells whether it could."""

NAME: Final = "hermes-nats-sidecar"
QUESTION: Final = f"$SRV.STATS.{NAME}"
ANSWERS: Final = "_INBOX_hermes_sidecars"
"""An inbox of its own: whoever may answer there can send nothing to another inbox, in
which events come."""

_ANSWERS: Final = f"{ANSWERS}.>"
_LISTENING: Final = f"$SRV.*.{NAME}"
_INBOX: Final = re.compile(r"_INBOX[A-Za-z0-9_.-]{0,200}")
_TYPES: Final = {
    verb: f"io.nats.micro.v1.{verb.lower()}_response"
    for verb in ("PING", "INFO", "STATS")
}
_MOST_ANSWERS: Final = 256
_STATS_SECONDS: Final = 0.1
"""How old what STATS says may be: however often somebody asks, it costs little."""


class Asker:
    """Asks all sidecars once, for a command, and is none itself."""

    def __init__(self) -> None:
        self.inbox = f"{ANSWERS}.{secrets.token_hex(8)}.{secrets.token_hex(16)}"
        self.answers: list[bytes] = []
        self._send: Send = lambda *_: False

    def begin(self, send: Send) -> Sequence[str]:
        """Use this connection; give what it is to subscribe to."""
        self._send = send
        return (self.inbox,)

    def refuse(self, kind: str, subject: str) -> bool:
        """Take a refusal of the server, if it is one of ours: nobody is asked then."""
        return (
            subject == self.inbox.lower()
            if kind != "publish"
            else subject == QUESTION.lower()
        )

    def on_request(self, subject: str, reply: str) -> None:
        """Answer nobody."""

    def on_answer(self, data: bytes) -> None:
        """Keep an answer, of so many."""
        if len(self.answers) < _MOST_ANSWERS:
            self.answers.append(data)

    def ask(self) -> None:
        """Send the question; answers come as long as the connection lives."""
        self._send(QUESTION, self.inbox, b"")


class Service:
    """Answers PING, INFO and STATS over the connection of the moment, and asks all.

    `look` gives the data of STATS.
    """

    def __init__(self, metadata: dict[str, str], look: Callable[[], object]) -> None:
        self.id = secrets.token_hex(8)
        self.inbox = ""
        """Where the answers to the last question come."""
        self.on_answer: Callable[[bytes], None] = lambda _: None
        self.on_refused: Callable[[], None] = lambda: None
        self.lacks: set[str] = set()
        """Which permissions this connection's user lacks for it, as far as is known."""
        self._metadata = metadata
        self._look = look
        self._send: Send = lambda *_: False
        self._started = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%fZ}"
        self._asked_count = 0
        self._busy_seconds = 0.0
        self._stats = b""
        self._stats_at = -math.inf

    def begin(self, send: Send) -> Sequence[str]:
        """Use another connection from now on; give what it is to subscribe to."""
        self._send = send
        self.lacks = set()
        inbox = f"{ANSWERS}.{self.id}.*"
        return "$SRV.*", _LISTENING, f"{_LISTENING}.*", inbox

    def refuse(self, kind: str, subject: str) -> bool:
        """Take a refusal of the server, if it is one of ours.

        That is no fault of the sidecar: it does without. The subject is in lower case.
        """
        if subject.startswith(ANSWERS.lower()):
            subject = _ANSWERS
        elif subject == QUESTION.lower():
            subject = QUESTION
        elif subject == _LISTENING.lower():
            subject = _LISTENING
        else:  # what lists all services goes without, and the inbox of another program
            is_answer = kind == "publish" and subject.startswith("_inbox")
            return is_answer or subject.startswith("$srv.")
        self.lacks.add(f"{kind} to {subject}")
        self.on_refused()
        return True

    # -- What others ask ---------------------------------------------------------------

    def on_request(self, subject: str, reply: str) -> None:
        """Answer what somebody asks, if it is for a service."""
        prefix, _, rest = subject.partition(".")
        verb, *whose = rest.split(".")
        is_ours = prefix == "$SRV" and whose in ([], [NAME], [NAME, self.id])
        if not is_ours or not self._may_answer(reply):
            return
        if verb == "STATS":
            self._send(reply, "", self._stats_now())
        elif verb == "PING":
            self._send(reply, "", self._document(verb))
        elif verb == "INFO":
            endpoint = self._endpoint() | {"metadata": {}}
            about = {
                "description": "NATS JetStream as the message bus of Hermes",
                "endpoints": [endpoint],
            }
            self._send(reply, "", self._document(verb, **about))

    def _may_answer(self, reply: str) -> bool:
        is_refused = (
            reply.startswith(ANSWERS) and f"publish to {_ANSWERS}" in self.lacks
        )
        return _INBOX.fullmatch(reply) is not None and not is_refused

    def _stats_now(self) -> bytes:
        self._asked_count += 1
        now = time.monotonic()
        if now - self._stats_at >= _STATS_SECONDS:
            data = self._look()
            self._busy_seconds += time.monotonic() - now
            busy = int(self._busy_seconds * 1e9)
            endpoint = self._endpoint() | {
                "num_requests": self._asked_count,
                "num_errors": 0,
                "last_error": "",
                "processing_time": busy,
                "average_processing_time": busy // self._asked_count,
                "data": data,
            }
            about = {"started": self._started, "endpoints": [endpoint]}
            self._stats = self._document("STATS", **about)
            self._stats_at = now
        return self._stats

    def _endpoint(self) -> dict[str, Any]:
        """Describe where the clients are asked for: by STATS itself, no queue group."""
        return {"name": "clients", "subject": QUESTION, "queue_group": ""}

    def _document(self, verb: str, **about: object) -> bytes:
        document = {
            "type": _TYPES[verb],
            "name": NAME,
            "id": self.id,
            "version": __version__,
            "metadata": self._metadata,
            **about,
        }
        return json.dumps(document).encode()

    # -- What we ask -------------------------------------------------------------------

    def ask(self) -> bool:
        """Ask all sidecars; tell whether the question is on its way.

        Each answer comes to `on_answer`, until the next question. Who may not take part
        in all of it does not ask: nats-server logs each thing that it refuses.
        """
        self.inbox = f"{ANSWERS}.{self.id}.{secrets.token_hex(16)}"
        return not self.lacks and self._send(QUESTION, self.inbox, b"")
