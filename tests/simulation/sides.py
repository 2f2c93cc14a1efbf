# SPDX-License-Identifier: Apache-2.0
"""Two sides that are asked the same: real nats-servers, and the model of them."""

from __future__ import annotations

import itertools
import json
import socket
import time
from typing import TYPE_CHECKING, Any, Final

from parts.process import wait_until

from sidecar.nats_client import header_block, split_messages, status

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from parts.nats import NatsProcess

STREAM: Final = "hermes"
SUBJECT: Final = "hermes.base"
Message = tuple[bytes, bytes]
"""A header block, as it came, and a body."""

_SECONDS = 2.0
_CONNECT = {"verbose": False, "headers": True, "no_responders": True}


class Side:
    """What a scenario may do: ask, as the sidecar does, and operate the servers."""

    version: tuple[int, int]
    replicas: int

    def ask(self, subject: str, payload: bytes = b"", block: bytes = b"") -> Any:
        """Give every message of the answer; none if nothing came for a while."""
        raise NotImplementedError

    def ask_many(self, requests: list[tuple[str, bytes, bytes]]) -> list[bytes]:
        """Send them at once and give the body of each answer, in that order."""
        raise NotImplementedError

    def step_down(self) -> None:
        """Let the leader step down, and wait for the next."""
        raise NotImplementedError

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        raise NotImplementedError

    # -- In short ----------------------------------------------------------------------

    def api(self, name: str, request: Any = None) -> Any:
        """Ask the JetStream API; give its JSON."""
        payload = b"" if request is None else json.dumps(request).encode()
        ((_, data),) = self.ask(f"$JS.API.{name}", payload)
        return json.loads(data)

    def create(self, **config: Any) -> Any:
        """Create the stream as the sidecar does, but for what `config` says."""
        document = {
            "name": STREAM,
            "subjects": [f"{STREAM}.*"],
            "storage": "file",
            "retention": "limits",
            "discard": "new",
            "allow_direct": True,
            "num_replicas": self.replicas,
        }
        return self.api(f"STREAM.CREATE.{STREAM}", document | config)

    def publish(
        self, body: bytes = b"{}", subject: str = SUBJECT, **fence: object
    ) -> Message:
        """Publish; fence: key=, stream=, last=; b"" and b"" for no answer."""
        answer = self.ask(subject, body, fences(**fence))
        return answer[0] if answer else (b"", b"")


def fences(
    key: object = None, stream: object = None, last: object = None
) -> bytes:
    """Write the header block of a publish."""
    names = {
        b"Nats-Msg-Id": key,
        b"Nats-Expected-Stream": stream,
        b"Nats-Expected-Last-Sequence": last,
    }
    fields = {
        name: str(value).encode() for name, value in names.items() if value is not None
    }
    return header_block(fields) if fields else b""


class RealSide(Side):
    """One connection to a real nats-server, over a plain socket."""

    def __init__(
        self, nodes: list[NatsProcess], version: tuple[int, int], replicas: int
    ) -> None:
        self.nodes = nodes
        self.version = version
        self.replicas = replicas
        self._tokens = itertools.count()
        self._connect(nodes[0].port)

    def _connect(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), 5)
        self._socket.settimeout(_SECONDS)
        self._data = b""
        command = f"CONNECT {json.dumps(_CONNECT)}\r\nSUB _INBOX.side.* 1\r\n"
        self._socket.sendall(command.encode())

    def close(self) -> None:
        """End the connection."""
        self._socket.close()

    def ask(self, subject: str, payload: bytes = b"", block: bytes = b"") -> Any:
        """Give every message of the answer; none if nothing came for a while."""
        token = self._send(subject, payload, block)
        is_batch = ".DIRECT.GET." in subject and b"batch" in payload
        messages: list[Message] = []
        while (got := self._receive()) is not None:
            if got[0] != token:
                continue
            messages.append(got[1:])
            if not is_batch or status(got[1]) is not None:
                break
        return messages

    def ask_many(self, requests: list[tuple[str, bytes, bytes]]) -> list[bytes]:
        """Send them at once and give the body of each answer, in that order."""
        tokens = [self._send(*request) for request in requests]
        answers: dict[str, bytes] = {}
        while len(answers) < len(tokens):
            got = self._receive()
            if got is None:
                break
            answers[got[0]] = got[2]
        return [answers.get(token, b"") for token in tokens]

    def _send(self, subject: str, payload: bytes, block: bytes) -> str:
        token = str(next(self._tokens))
        head = f"PUB {subject} _INBOX.side.{token} {len(payload)}\r\n"
        if block:
            size = len(block) + len(payload)
            head = f"HPUB {subject} _INBOX.side.{token} {len(block)} {size}\r\n"
        self._socket.sendall(head.encode() + block + payload + b"\r\n")
        return token

    def _receive(self) -> tuple[str, bytes, bytes] | None:
        while True:
            split = split_messages(self._data)
            if split.messages:
                subject, block, data = split.messages[0]
                rest = split_rest(self._data)
                self._data = rest
                return subject.rpartition(".")[2], block, data
            line, end, rest = self._data.partition(b"\r\n")
            if end and not line.startswith((b"MSG", b"HMSG")):
                self._data = rest
                if line == b"PING":
                    self._socket.sendall(b"PONG\r\n")
                continue
            try:
                data = self._socket.recv(1 << 16)
            except TimeoutError:
                return None
            if not data:
                return None
            self._data += data

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        time.sleep(seconds)

    def step_down(self) -> None:
        """Let the leader step down, and wait for the next."""
        self.api(f"STREAM.LEADER.STEPDOWN.{STREAM}")
        wait_until(self._has_leader, what="a leader")

    def _has_leader(self) -> bool:
        answer = self.ask(f"$JS.API.STREAM.INFO.{STREAM}")
        document = json.loads(answer[0][1]) if answer else {}
        cluster = document.get("cluster") or {}
        names = [each["name"] for each in cluster.get("replicas") or []]
        return bool(cluster.get("leader")) and cluster["leader"] not in names


def split_rest(data: bytes) -> bytes:
    """Give what follows the first message."""
    line, _, rest = data.partition(b"\r\n")
    return rest[int(line.split()[-1]) + 2 :]
