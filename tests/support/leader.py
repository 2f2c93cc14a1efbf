# SPDX-License-Identifier: Apache-2.0
"""Who speaks for a stream on a server without JetStream; a test says what it shows.

What real servers show for a moment only: an old leader, a follower that answers.
"""

from __future__ import annotations

import base64
import json
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from .jetstream import FIT_STREAM, RawNatsClient

if TYPE_CHECKING:
    from .nats import NatsProcess

WITHOUT_JETSTREAM = "enabled: false"


_TIME = "2026-11-27T09:48:26.881698198Z"


def _typed(kind: str, **members: Any) -> dict[str, Any]:
    return {"type": f"io.nats.jetstream.api.v1.{kind}_response", **members}


class _Stored(NamedTuple):
    subject: str
    block: bytes
    body: bytes


class Leader:
    """Stores what is published, and answers what the sidecar asks of a stream."""

    def __init__(self, nats: NatsProcess, name: str, *, last: int = 0) -> None:
        self._operator = RawNatsClient(nats.port)
        self._name = name
        self._messages: dict[int, _Stored] = {}
        self._thread = threading.Thread(target=self._answer_all, daemon=True)
        self.first = self.followers_first = 1
        self.last = last
        self.lag = 0
        self.ages = 0  # so many answers: its first message has aged out after each
        self.created = _TIME
        self.direct_stream: str | None = name  # whose name direct gets bear
        self.is_silent = False  # to direct gets: they are answered when it no longer is
        self.direct_asked = self.pending = 0
        self.finds_nothing = False  # as an old leader, by a second answer
        self._unanswered: list[tuple[str, dict[str, Any]]] = []
        self.cluster: dict[str, Any] = {
            "leader": "n1",
            "replicas": [{"name": "n2", "active": 1}, {"name": "n3", "active": 1}],
        }
        for subject in (
            f"$JS.API.STREAM.INFO.{name}",
            f"$JS.API.STREAM.MSG.GET.{name}",
            f"$JS.API.DIRECT.GET.{name}",
            f"{name}.*",
        ):
            self._operator.answer_at(subject)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._operator.shut_down()
        self._thread.join()
        self._operator.__exit__()

    def _answer_all(self) -> None:
        with suppress(OSError, AssertionError):
            while True:
                subject, reply, block, body = self._operator.receive_whole()
                if ".DIRECT.GET." in subject:
                    self.direct_asked += 1
                    self._unanswered.append((reply, json.loads(body)))
                    while self._unanswered and not self.is_silent:
                        self._send_batch(*self._unanswered.pop(0))
                else:
                    answer = self._answer(subject, block, body)
                    self._operator.send(reply, json.dumps(answer).encode())

    def _answer(self, subject: str, block: bytes, body: bytes) -> Any:
        if ".STREAM.INFO." in subject:
            return _typed("stream_info", **self._info())
        if ".MSG.GET." in subject:
            return self._message(json.loads(body))
        expected = block.partition(b"Nats-Expected-Last-Sequence:")[2]
        if int(expected.partition(b"\r\n")[0]) != self.last:
            return {"error": {"err_code": 10071}, "stream": self._name, "seq": 0}
        self.store(subject, block, body)
        return {"stream": self._name, "seq": self.last}

    def store(self, subject: str, block: bytes, body: bytes) -> None:
        self.last += 1
        self._messages[self.last] = _Stored(subject, block, body)

    def restore(self, last: int) -> None:
        """Put a copy back that ends there; `created` stays, as with a copy of files."""
        self._messages = {at: each for at, each in self._messages.items() if at <= last}
        self.last = last

    def _send_batch(self, reply: str, request: dict[str, Any]) -> None:
        """Answer a direct get, as a follower that lags behind nobody."""
        least = max(request.get("seq", 0), self.first, self.followers_first)
        held = [at for at in self._messages if least <= at <= self.last]
        newest_of = request.get("multi_last")
        if newest_of:
            held = [at for at in held if self._messages[at].subject in newest_of][-1:]
        for sequence in held:
            headers = {
                "Nats-Sequence": f"{sequence}",
                "Nats-Subject": self._messages[sequence].subject,
                "Nats-Time-Stamp": _TIME,
                "Nats-Last-Sequence": "0",
            }
            if self.direct_stream is not None:
                headers["Nats-Stream"] = self.direct_stream
            self._operator.send(reply, self._messages[sequence].body, headers)
        end = f"Nats-Num-Pending: {self.pending}"
        if newest_of:
            end = f"Nats-UpTo-Sequence: {self.last}"
        self._operator.send_status(reply, f"204 EOB\r\n{end}")

    def _info(self) -> Any:
        last = self.last - self.lag
        info = {
            "config": FIT_STREAM
            | {"name": self._name, "subjects": [f"{self._name}.*"], "num_replicas": 3},
            "created": self.created,
            "state": {
                "messages": last,
                "bytes": 0,
                "first_seq": self.first,
                "last_seq": last,
            },
            "cluster": self.cluster,
        }
        if self.ages:
            self.ages -= 1
            self.first += 1
        return info

    def _message(self, request: dict[str, Any]) -> Any:
        """Give the first message that was asked for, or the last."""
        wanted = request.get("next_by_subj") or request.get("last_by_subj") or ">"
        start, end = request.get("seq", 0), self.last - self.lag
        if "seq" in request and "next_by_subj" not in request:
            end = min(start, end)
        held = [
            each
            for each in range(max(start, self.first), end + 1)
            if each in self._messages and wanted in (">", self._messages[each].subject)
        ]
        is_last = "last_by_subj" in request
        sequence = held[-is_last] if held and not self.finds_nothing else None
        if sequence is None:
            error = {"err_code": 10037, "description": "no message found"}
            return _typed("stream_msg_get", error=error)
        stored = self._messages[sequence]
        message = {
            "seq": sequence,
            "subject": stored.subject,
            "hdrs": base64.b64encode(stored.block).decode(),
            "data": base64.b64encode(stored.body).decode(),
            "time": _TIME,
        }
        return _typed("stream_msg_get", message=message)
