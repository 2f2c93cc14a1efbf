# SPDX-License-Identifier: Apache-2.0
"""Two sides that are asked the same: real nats-servers, and the model of them.

Long because each question stands beside its two answers.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import socket
import time
from contextlib import suppress
from functools import partial
from random import Random
from typing import TYPE_CHECKING, Any, Final

from support.jetstream import RawNatsClient, wait_jetstream
from support.process import wait_until

from sidecar.jetstream.client import header_block, split_messages, status

from .clock import VirtualLoop
from .copies import MIRROR, follow
from .jetstream import Cluster
from .messages import OTHER_STREAM

if TYPE_CHECKING:
    from collections.abc import Sequence

    from support.nats import NatsProcess

STREAM: Final = "hermes"
SUBJECT: Final = "hermes.base"
Message = tuple[bytes, bytes]
"""A header block, as it came, and a body."""

_SECONDS = 2.0
_NO_STORE = 10049
_CONNECT = {"verbose": False, "headers": True, "no_responders": True}


class Side:
    """What a scenario may do: ask, as the sidecar does, and operate the servers."""

    version: tuple[int, int]
    replicas: int

    def __init__(self) -> None:
        self.errors: list[str] = []  # what -ERR said, in lower case
        self.is_closed = False
        self._tokens = itertools.count()

    # Each side has its own:

    def send(
        self, subject: str, payload: bytes, block: bytes, *, replies: bool = True
    ) -> str:
        """Publish; give the token of the reply subject."""
        raise NotImplementedError

    def receive(self, seconds: float = _SECONDS) -> tuple[str, bytes, bytes] | None:
        """Give the token, header block and body of what comes next, if anything."""
        raise NotImplementedError

    def connect(self, node: int) -> None:
        """Connect to another server."""
        raise NotImplementedError

    def hang_up(self) -> None:
        """Close the connection, whatever the other side has read of it."""
        raise NotImplementedError

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        raise NotImplementedError

    def kill(self, node: int) -> None:
        """End a server as kill -9 does."""
        raise NotImplementedError

    def start(self, node: int) -> None:
        """Start it again."""
        raise NotImplementedError

    def freeze(self, node: int) -> None:
        """Stop it, as SIGSTOP does."""
        raise NotImplementedError

    def thaw(self, node: int) -> None:
        """Let it go on."""
        raise NotImplementedError

    def await_removal(self) -> None:
        """Wait until the files of a deleted stream are gone."""

    def connect_denied(self) -> None:
        """Connect to the first server as one who may not publish on our subject."""
        raise NotImplementedError

    def have_leaf(self) -> None:
        """Have a leaf node whose own stream, `edge`, takes our subjects."""
        raise NotImplementedError

    def end_leaf(self) -> None:
        """Have it no more."""
        raise NotImplementedError

    def have_mirror(self) -> None:
        """Have a plain mirror of the stream, `backup`, on the same servers."""
        raise NotImplementedError

    def end_mirror(self) -> None:
        """Have it no more."""
        raise NotImplementedError

    def let_age(self) -> None:
        """Let all that the stream holds pass its age."""
        raise NotImplementedError

    # -- In short ----------------------------------------------------------------------

    def ask(
        self, subject: str, payload: bytes = b"", block: bytes = b""
    ) -> list[Message]:
        """Give every message of the answer; none if nothing came for a while."""
        token = self.send(subject, payload, block)
        is_batch = ".DIRECT.GET." in subject and b"batch" in payload
        messages: list[Message] = []
        while (got := self.receive()) is not None:
            if got[0] == token:
                messages.append(got[1:])
                if not is_batch or status(got[1]) is not None:
                    break
        return messages

    def ask_at_once(self, requests: list[tuple[str, bytes, bytes]]) -> list[bytes]:
        """Send them at once and give the body of each answer, in that order."""
        tokens = [self.send(*request) for request in requests]
        answers: dict[str, bytes] = {}
        while len(answers) < len(tokens) and (got := self.receive()) is not None:
            answers[got[0]] = got[2]
        return [answers.get(token, b"") for token in tokens]

    def ask_all(self, count: int, body: bytes = b"{}", **fence: object) -> list[bytes]:
        """Publish and give the answers of so many who take it, in any order."""
        token = self.send(SUBJECT, body, fences(**fence))
        answers: list[bytes] = []
        while len(answers) < count and (got := self.receive()) is not None:
            if got[0] == token:
                answers.append(got[2])
        return sorted(answers)

    def api(self, name: str, request: Any = None) -> Any:
        """Ask the JetStream API; give its JSON, {} for no answer."""
        payload = b"" if request is None else json.dumps(request).encode()
        answers = self.ask(f"$JS.API.{name}", payload)
        return json.loads(answers[0][1]) if answers else {}

    def info(self) -> Any:
        """Ask for the stream's state."""
        return self.api(f"STREAM.INFO.{STREAM}")

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

    def batch(
        self,
        count: int,
        last: int | None = None,
        *,
        name: str = "b",
        key: str | None = "k",
        numbers: Sequence[int] | None = None,
        fenced: int = 1,
    ) -> Message:
        """Send an atomic batch; give what answers its last message.

        The message `fenced` has the fence; the number of the last one is `count`.
        """
        numbers = numbers or range(1, count + 1)
        for number in numbers:
            fields = {b"Nats-Batch-Id": name, b"Nats-Batch-Sequence": str(number)}
            if key is not None:
                fields[b"Nats-Msg-Id"] = f"{key}{number}"
            if number == fenced and last is not None:
                fields[b"Nats-Expected-Last-Sequence"] = str(last)
            if number == count:
                fields[b"Nats-Batch-Commit"] = "1"
            block = header_block({k: v.encode() for k, v in fields.items()})
            token = self.send(SUBJECT, b"{}", block, replies=number == count)
        while count in numbers and (got := self.receive()) is not None:
            if got[0] == token:
                return got[1:]
        return b"", b""

    def direct(self, **request: Any) -> list[Message]:
        """Ask any replica."""
        return self.ask(f"$JS.API.DIRECT.GET.{STREAM}", json.dumps(request).encode())

    def step_down(self) -> Any:
        """Let the leader step down, and wait for the next."""
        answer = self.api(f"STREAM.LEADER.STEPDOWN.{STREAM}")
        self.await_leader()
        return answer

    def leader(self) -> str | None:
        """Name the leader, if it answers and says that it is."""
        cluster = self.info().get("cluster") or {}
        names = [each["name"] for each in cluster.get("replicas") or []]
        leader = cluster.get("leader")
        return None if leader in names else leader

    def await_leader(self, other_than: str | None = None) -> str:
        """Wait until there is a leader; name it."""
        for _ in range(300):
            leader = self.leader()
            if leader is not None and leader != other_than:
                return leader
            self.sleep(0.1)
        raise AssertionError("no leader")

    def await_follower(self, node: int) -> None:
        """Wait until the leader says that a follower has all it has."""
        for _ in range(100):
            replicas = (self.info().get("cluster") or {}).get("replicas") or []
            lags = {each["name"]: each.get("lag", 0) for each in replicas}
            if lags.get(f"n{node + 1}") == 0:
                return
            self.sleep(0.05)
        raise AssertionError("a follower lags")


def fences(key: object = None, stream: object = None, last: object = None) -> bytes:
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
    """One connection to real nats-servers, over a plain socket."""

    def __init__(
        self,
        nodes: list[NatsProcess],
        version: tuple[int, int],
        replicas: int,
        leaf: NatsProcess | None = None,
    ) -> None:
        super().__init__()
        self.nodes = nodes
        self._leaf = leaf
        self.version = version
        self.replicas = replicas
        self._socket: socket.socket | None = None
        self.connect(0)

    def connect(self, node: int) -> None:
        """Connect to another server."""
        self._connect(node)

    def connect_denied(self) -> None:
        """Connect to the first server as one who may not publish on our subject."""
        self._connect(0, user="denied", **{"pass": "denied"})

    def _connect(self, node: int, **login: str) -> None:
        self.hang_up()
        self._socket = socket.create_connection(("127.0.0.1", self.nodes[node].port), 5)
        self._data = b""
        self.errors, self.is_closed = [], False
        command = f"CONNECT {json.dumps(_CONNECT | login)}\r\nSUB _INBOX.side.* 1\r\n"
        self._socket.sendall(command.encode())

    def hang_up(self) -> None:
        """Close the connection, whatever the other side has read of it."""
        if self._socket is not None:
            self._socket.close()

    def close(self) -> None:
        """End the side."""
        self.hang_up()

    def fresh(self) -> None:
        """Have no stream, and what a scenario left behind undone."""
        self.end_leaf()
        for node in self.nodes:
            if not node.is_alive:
                node.start()
            node.thaw()
            node.wait()
        self.connect(0)
        for _ in range(20):
            answer = self.api(f"STREAM.DELETE.{STREAM}")
            gone = answer.get("error", {}).get("description") == "stream not found"
            if gone or answer.get("success"):
                break
            time.sleep(0.3)
        self.await_removal()

    def await_removal(self) -> None:
        """Wait until the files of a deleted stream are gone.

        A stream that is deleted again before that keeps its files, and one that is then
        made anew begins with its messages (2.11.11 to 2.15.1).
        """
        for node in self.nodes:
            streams = node.directory / "data" / "jetstream" / "$G" / "streams"
            while (streams / f".{STREAM}").exists():
                time.sleep(0.01)

    def create(self, **config: Any) -> Any:
        """Create the stream; what is left of a deleted one may be in the way (10049).

        Seen with 2.11.11, once in some hundred creations after a deletion.
        """
        for _ in range(20):
            answer = super().create(**config)
            if answer.get("error", {}).get("err_code") != _NO_STORE:
                break
            time.sleep(0.1)
        return answer

    def have_leaf(self) -> None:
        """Have a leaf node whose own stream, `edge`, takes our subjects."""
        assert self._leaf is not None
        self._leaf.start()
        wait_jetstream(self._leaf.wait().port)
        with RawNatsClient(self._leaf.port) as operator:
            operator.create("edge", STREAM, storage="memory")
        wait_until(
            lambda: self.publish(stream="nobody's")[1] != b"", what="the leaf answers"
        )

    def end_leaf(self) -> None:
        """Have it no more."""
        if self._leaf is not None and self._leaf.is_alive:
            self._leaf.stop()

    def have_mirror(self) -> None:
        """Have a plain mirror of the stream, `backup`, on the same servers."""
        config = {"name": MIRROR, "mirror": {"name": STREAM}, "storage": "memory"}
        self.api(f"STREAM.CREATE.{MIRROR}", config)
        named = f"Nats-Stream: {MIRROR}\r\n".encode()
        wait_until(lambda: named in self.direct(seq=1)[0][0], what="the mirror answers")

    def end_mirror(self) -> None:
        """Have it no more."""
        self.api(f"STREAM.DELETE.{MIRROR}")

    def let_age(self) -> None:
        """Let all that the stream holds pass its age."""
        wait_until(lambda: self.info()["state"]["messages"] == 0, what="it is gone")

    def send(
        self, subject: str, payload: bytes, block: bytes, *, replies: bool = True
    ) -> str:
        """Publish; give the token of the reply subject."""
        token = str(next(self._tokens))
        whereto = f"{subject} _INBOX.side.{token}" if replies else subject
        head = f"PUB {whereto} {len(payload)}\r\n"
        if block:
            size = len(block) + len(payload)
            head = f"HPUB {whereto} {len(block)} {size}\r\n"
        with suppress(OSError):
            self._connected.sendall(head.encode() + block + payload + b"\r\n")
        return token

    @property
    def _connected(self) -> socket.socket:
        assert self._socket is not None
        return self._socket

    def receive(self, seconds: float = _SECONDS) -> tuple[str, bytes, bytes] | None:
        """Give the token, header block and body of what comes next, if anything."""
        while True:
            split = split_messages(self._data)
            if split.messages:
                subject, block, data = split.messages[0]
                self._data = _after_message(self._data)
                return subject.rpartition(".")[2], block, data
            line, end, rest = self._data.partition(b"\r\n")
            if end and not line.startswith((b"MSG", b"HMSG")):
                self._data = rest
                self._take_line(line)
                continue
            try:
                self._connected.settimeout(seconds)
                data = self._connected.recv(1 << 16)
            except TimeoutError:
                return None
            except OSError:
                data = b""
            if not data:
                self.is_closed = True
                return None
            self._data += data

    def _take_line(self, line: bytes) -> None:
        if line == b"PING":
            self._connected.sendall(b"PONG\r\n")
        elif line.startswith(b"-ERR"):
            self.errors.append(line.decode().removeprefix("-ERR ").lower())

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        time.sleep(seconds)

    def kill(self, node: int) -> None:
        """End a server as kill -9 does."""
        self.nodes[node].kill()

    def start(self, node: int) -> None:
        """Start it again."""
        self.nodes[node].start()
        self.nodes[node].wait()

    def freeze(self, node: int) -> None:
        """Stop it, as SIGSTOP does."""
        self.nodes[node].freeze()

    def thaw(self, node: int) -> None:
        """Let it go on."""
        self.nodes[node].thaw()


class ModelSide(Side):
    """One connection to the model, on a virtual loop of its own."""

    def __init__(self, version: tuple[int, int], replicas: int, seed: int = 0) -> None:
        super().__init__()
        self.version = version
        self.replicas = replicas
        self.history: list[tuple[float, str, str]] = []
        self._connections = 0
        self._loop = VirtualLoop()
        rng = Random(seed)  # noqa: S311 - it must repeat
        self.cluster = Cluster(
            self._loop, rng, self._record, version=version, nodes=replicas
        )
        self._got: list[tuple[str, bytes, bytes]] = []
        self.connect(0)

    def _record(self, who: str, text: str, *arguments: object) -> None:
        self.history.append((self._loop.time(), who, text % arguments))

    def connect(self, node: int) -> None:
        """Connect to another server."""
        self._connections += 1
        self.errors, self.is_closed = [], False
        take_end = partial(self._take_end, self._connections)
        self._link = self.cluster.connect(node, self._take, take_end)
        self._link.on_error = self.errors.append
        self._link.subscribe("_INBOX.side.*")
        self.cluster.trouble.is_denied = False

    def connect_denied(self) -> None:
        """Connect to the first server as one who may not publish on our subject."""
        self.connect(0)
        self.cluster.trouble.is_denied = True

    def have_leaf(self) -> None:
        """Have a leaf node whose own stream, `edge`, takes our subjects."""
        self.cluster.trouble.foreign = "edge", OTHER_STREAM, 1

    def end_leaf(self) -> None:
        """Have it no more."""
        self.cluster.trouble.foreign = None

    def have_mirror(self) -> None:
        """Have a plain mirror of the stream, `backup`, on the same servers."""
        assert self.cluster.assignment is not None
        self._end_mirror = follow(self.cluster, self.cluster.assignment)

    def end_mirror(self) -> None:
        """Have it no more."""
        self._end_mirror()

    def let_age(self) -> None:
        """Let all that the stream holds pass its age."""
        self.cluster.expire(self.cluster.last + 1)
        self.sleep(0.5)

    def hang_up(self) -> None:
        """Close the connection, whatever the other side has read of it."""
        self._link.close()

    def close(self) -> None:
        """End the side."""
        self._loop.close()

    def _take(self, subject: str, block: bytes, data: bytes) -> None:
        self._got.append((subject.rpartition(".")[2], block, data))

    def _take_end(self, connection: int, _: str) -> None:
        if connection == self._connections:
            self.is_closed = True

    def send(
        self, subject: str, payload: bytes, block: bytes, *, replies: bool = True
    ) -> str:
        """Publish; give the token of the reply subject."""
        token = str(next(self._tokens))
        reply = f"_INBOX.side.{token}" if replies else ""
        self._link.send(subject, reply, payload, block)
        return token

    def receive(self, seconds: float = _SECONDS) -> tuple[str, bytes, bytes] | None:
        """Give the token, header block and body of what comes next, if anything."""
        ends_at = self._loop.time() + seconds
        while not self._got and not self.is_closed and self._loop.time() < ends_at:
            self.sleep(0.001)
        return self._got.pop(0) if self._got else None

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        self._loop.run_until_complete(asyncio.sleep(seconds))

    def kill(self, node: int) -> None:
        """End a server as kill -9 does."""
        self.cluster.servers[node].kill()

    def start(self, node: int) -> None:
        """Start it again."""
        self.cluster.servers[node].start()

    def freeze(self, node: int) -> None:
        """Stop it, as SIGSTOP does."""
        self.cluster.servers[node].freeze()

    def thaw(self, node: int) -> None:
        """Let it go on."""
        self.cluster.servers[node].thaw()


def _after_message(data: bytes) -> bytes:
    line, _, rest = data.partition(b"\r\n")
    return rest[int(line.split()[-1]) + 2 :]
