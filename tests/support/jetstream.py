# SPDX-License-Identifier: Apache-2.0
"""An operator beside the sidecar: NATS over a plain socket, without nats-py."""

from __future__ import annotations

import json
import socket
import uuid
from typing import TYPE_CHECKING, Any, Self

from .process import wait_until

if TYPE_CHECKING:
    from collections.abc import Mapping

FIT_STREAM = {
    "storage": "file",
    "retention": "limits",
    "discard": "new",
    "deny_delete": True,
    "deny_purge": True,
    "allow_direct": True,
    "num_replicas": 1,
}


class RawNatsClient:
    """One connection that speaks the NATS protocol, one request at a time."""

    def __init__(
        self,
        port: int,
        user: str = "",
        password: str = "",
        token: str = "",
        *,
        seconds: float = 5,
    ) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), seconds)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._stream = self._socket.makefile("rb")
        self._stream.readline()  # INFO
        options: dict[str, Any] = {
            "verbose": False,
            "pedantic": False,
            "headers": True,
            "no_responders": True,
        }
        if user:
            options |= {"user": user, "pass": password}
        if token:
            options |= {"auth_token": token}
        self._write(b"CONNECT " + json.dumps(options).encode() + b"\r\n")
        # Its own: an answer may come when the one who asked is gone.
        self.inbox = f"_INBOX.operator_{uuid.uuid4().hex}"
        self._subscriptions = 1
        self._write(f"SUB {self.inbox} 1\r\nPING\r\n".encode())
        self._read_until(b"PONG")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()
        self._socket.close()

    def ask(
        self,
        subject: str,
        payload: bytes = b"",
        headers: Mapping[str, str] | None = None,
    ) -> bytes:
        """Publish with our inbox as the reply subject and give the first reply."""
        self.send(subject, payload, headers, reply=self.inbox)
        return self.receive()[1]

    def send(
        self,
        subject: str,
        payload: bytes = b"",
        headers: Mapping[str, str] | None = None,
        reply: str = "",
    ) -> None:
        if not headers:
            head = f"PUB {subject} {reply} {len(payload)}\r\n"
            line = head.encode("utf-8", "surrogateescape")
            self._write(line + payload + b"\r\n")
            return
        block = b"NATS/1.0\r\n"
        block += b"".join(f"{k}: {v}\r\n".encode() for k, v in headers.items())
        block += b"\r\n"
        head = f"HPUB {subject} {reply} {len(block)} {len(block) + len(payload)}\r\n"
        self._write(head.encode() + block + payload + b"\r\n")

    def answer_at(self, subject: str) -> None:
        """Subscribe, to answer requests as if we were JetStream."""
        self._subscriptions += 1
        self._write(f"SUB {subject} {self._subscriptions}\r\nPING\r\n".encode())
        self._read_until(b"PONG")

    def send_status(self, subject: str, status: str) -> None:
        """Publish a status and nothing else, as JetStream does."""
        block = f"NATS/1.0 {status}\r\n\r\n"
        head = f"HPUB {subject} {len(block)} {len(block)}\r\n"
        self._write(f"{head}{block}\r\n".encode())

    def receive(self) -> tuple[str, bytes]:
        """Give the reply subject and the payload of the next message."""
        _, reply, _, body = self.receive_whole()
        return reply, body

    def receive_whole(self) -> tuple[str, str, bytes, bytes]:
        """Give subject, reply subject, header block and payload of the next message."""
        words = self._read_until(b"MSG", b"HMSG").split()
        size = int(words[-1])
        headers_size = int(words[-2]) if words[0] == b"HMSG" else 0
        body = self._stream.read(size + 2)[:size]
        is_plain = words[0] == b"MSG"
        has_reply = len(words) == (5 if is_plain else 6)
        reply = words[3].decode() if has_reply else ""
        return words[1].decode(), reply, body[:headers_size], body[headers_size:]

    def shut_down(self) -> None:
        """End the wait for a message, in whichever thread it is."""
        self._socket.shutdown(socket.SHUT_RDWR)

    def api(self, name: str, request: Any = None) -> Any:
        """Ask the JetStream API; an error answer is an AssertionError."""
        payload = b"" if request is None else json.dumps(request).encode()
        answer = json.loads(self.ask(f"$JS.API.{name}", payload))
        assert "error" not in answer, answer["error"]
        return answer

    def create(self, name: str, prefix: str | None = None, **config: Any) -> Any:
        """Create a fit stream, but for what `config` says."""
        document = FIT_STREAM | {"name": name, "subjects": [f"{prefix or name}.*"]}
        document |= config
        return self.api(f"STREAM.CREATE.{name}", document)

    def update(self, name: str, **changes: Any) -> Any:
        """Change a stream's configuration, and nothing else of it."""
        config = self.api(f"STREAM.INFO.{name}")["config"]
        return self.api(f"STREAM.UPDATE.{name}", config | changes)

    def state(self, name: str) -> dict[str, Any]:
        state: dict[str, Any] = self.api(f"STREAM.INFO.{name}")["state"]
        return state

    def delete(self, name: str) -> None:
        self.api(f"STREAM.DELETE.{name}")

    def backup(self, name: str) -> tuple[Any, Any, list[bytes]]:
        """Take a backup, as `nats stream backup` does: config, state, and chunks."""
        request = {"deliver_subject": self.inbox, "no_consumers": True}
        subject = f"$JS.API.STREAM.SNAPSHOT.{name}"
        self.send(subject, json.dumps(request).encode(), reply=self.inbox)
        answer = json.loads(self.receive()[1])
        assert "error" not in answer, answer["error"]
        chunks: list[bytes] = []
        while True:
            reply, chunk = self.receive()
            if not chunk:
                return answer["config"], answer["state"], chunks
            chunks.append(chunk)
            if reply:
                self.send(reply)

    def restore(self, name: str, config: Any, state: Any, chunks: list[bytes]) -> None:
        """Restore a backup, as `nats stream restore` does."""
        restore = self.api(f"STREAM.RESTORE.{name}", {"config": config, "state": state})
        for chunk in chunks:
            self.ask(restore["deliver_subject"], chunk)
        made = json.loads(self.ask(restore["deliver_subject"]))
        assert "error" not in made, made["error"]

    def publish(
        self, subject: str, payload: bytes, headers: Mapping[str, str] | None = None
    ) -> int:
        """Store one message and give its sequence."""
        answer = json.loads(self.ask(subject, payload, headers))
        assert "error" not in answer, answer["error"]
        return int(answer["seq"])

    def publish_bytes(self, subject: bytes, payload: bytes) -> None:
        """Publish on a subject that is no text, and wait until the server has it."""
        self._write(b"PUB %s %d\r\n%s\r\nPING\r\n" % (subject, len(payload), payload))
        self._read_until(b"PONG")

    def publish_many(
        self, subject: str, kind: str, count: int, body: bytes = b"{}"
    ) -> None:
        """Store many small messages of one event type.

        Only the last of some thousands is acknowledged: more than ten thousand on their
        way would be dropped by the server.
        """
        headers = {"Hermes-Event-Type": kind}
        block = f"NATS/1.0\r\nHermes-Event-Type: {kind}\r\n\r\n".encode()
        head = f"HPUB {subject} {len(block)} {len(block) + len(body)}\r\n".encode()
        for start in range(0, count, 5_000):
            unanswered = min(5_000, count - start) - 1
            self._write((head + block + body + b"\r\n") * unanswered)
            self.publish(subject, body, headers)

    def bodies(self, name: str) -> list[bytes]:
        """Every message of a stream, in order."""
        state = self.state(name)
        return [
            self.body(name, number)
            for number in range(state["first_seq"], state["last_seq"] + 1)
            if state["messages"]
        ]

    def body(self, name: str, sequence: int) -> bytes:
        return self.ask(
            f"$JS.API.DIRECT.GET.{name}", json.dumps({"seq": sequence}).encode()
        )

    def _write(self, data: bytes) -> None:
        self._socket.sendall(data)

    def _read_until(self, *verbs: bytes) -> bytes:
        while True:
            line = self._stream.readline()
            assert line, "the NATS server closed the connection"
            if line.startswith(b"PING"):
                self._write(b"PONG\r\n")
            elif line.startswith(b"-ERR"):
                raise AssertionError(line.decode())
            if line.split(b" ", 1)[0].strip() in verbs:
                return line


def wait_jetstream(port: int, seconds: float = 30) -> None:
    """Wait until JetStream answers on a server, alone or in a cluster."""

    def answers() -> bool:
        try:
            with RawNatsClient(port) as operator:
                operator.api("INFO")
        except (OSError, AssertionError, ValueError):
            return False
        return True

    wait_until(answers, seconds, "JetStream answers")
