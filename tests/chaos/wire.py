# SPDX-License-Identifier: Apache-2.0
"""The whole stream, read over a plain socket.

Neither the product's code nor its client library: what the checker reads does not
depend on what it checks.
"""

from __future__ import annotations

import json
import time
from typing import Any

from support.jetstream import RawNatsClient
from support.sidecar import event

from .checker import Message

_BATCH = 20_000
_PATIENCE_SECONDS = 60.0

Silence = (OSError, AssertionError, ValueError)
"""What RawNatsClient raises where nobody answers, or JetStream answers an error."""


class Wire(RawNatsClient):
    """An RawNatsClient that asks with less patience and reads streams in batches."""

    def __init__(self, port: int, seconds: float = 2.0) -> None:
        super().__init__(port)
        self._socket.settimeout(seconds)

    def info(self, stream: str) -> dict[str, Any]:
        document: dict[str, Any] = self.api(f"STREAM.INFO.{stream}")
        return document

    def names(self) -> list[str]:
        """Name the streams of our account."""
        streams: list[str] | None = self.api("STREAM.NAMES")["streams"]
        return streams or []

    def mirror(self, name: str, origin: str, **config: Any) -> None:
        """Create a mirror; nats-server lets it answer the origin's direct gets."""
        filters = {key: config.pop(key) for key in ("filter_subject",) if key in config}
        document = {
            "name": name,
            "storage": "file",
            "mirror": {"name": origin} | filters,
        }
        self.api(f"STREAM.CREATE.{name}", document | config)

    def restore_older(self, name: str, origin: str, first: int, last: int) -> None:
        """Restore a mirror that holds an older stream at the offsets of the origin.

        As after a stream that was made anew, or restored to an earlier day, while its
        mirror was kept. It ends before `last`, so that it goes on with what comes.
        """
        self._make_older(name, origin, first, last - first)
        _, state, chunks = self.backup(name)
        self.delete(name)
        config = {"name": name, "storage": "file", "mirror": {"name": origin}}
        self.restore(name, config, state, chunks)

    def _make_older(self, name: str, origin: str, first: int, count: int) -> None:
        """Fill a stream with one whole initsync, whose objects are in no other."""
        older = f"{name}_older"
        to = {"src": f"{older}.*", "dest": origin + ".{{wildcard(1)}}"}
        self.create(name, older, first_seq=first, subject_transform=to)
        self.publish(f"{older}.initsync", event("initsync", eventtype="init-start"))
        body = event("initsync", objpkey=-1)
        self.publish_many(f"{older}.initsync", "added", max(1, count - 2), body)
        self.publish(f"{older}.initsync", event("initsync", eventtype="init-stop"))

    def batch(self, stream: str, first: int) -> tuple[list[Message], bool]:
        """Read from a sequence on, and say whether there is more behind it."""
        request = json.dumps({"seq": first, "batch": _BATCH}).encode()
        self.send(f"$JS.API.DIRECT.GET.{stream}", request, reply=self.inbox)
        batch: list[Message] = []
        while True:
            words = self._read_until(b"HMSG").split()
            size, split = int(words[-1]), int(words[-2])
            block = self._stream.read(size + 2)[:size]
            headers = _headers(block[:split])
            if "Status" in headers:
                return batch, headers.get("Nats-Num-Pending", "0") != "0"
            expected = headers.get(
                "Nats-Expected-Last-Sequence",
                headers.get("Hermes-Expected-Last-Sequence"),  # in an atomic batch
            )
            batch.append(
                Message(
                    offset=int(headers["Nats-Sequence"]),
                    key=headers.get("Nats-Msg-Id", ""),
                    body=block[split:],
                    expected=None if expected is None else int(expected),
                    time=headers["Nats-Time-Stamp"],
                    is_of_batch="Nats-Batch-Id" in headers,
                )
            )


def read_replica(port: int, stream: str, first: int) -> list[Message]:
    """Read a stream from a server while all others that hold it are frozen.

    The server leads a direct get to any of them, so each is repeated until this one
    itself was chosen.
    """
    messages: list[Message] = []
    has_more = True
    ends_at = time.monotonic() + _PATIENCE_SECONDS
    while has_more:
        try:
            with Wire(port, 1.0) as wire:
                batch, has_more = wire.batch(stream, first)
        except TimeoutError:
            if time.monotonic() > ends_at:
                raise
            continue
        messages += batch
        if messages:
            first = messages[-1].offset + 1
    return messages


def _headers(block: bytes) -> dict[str, str]:
    first, *lines = block.decode().split("\r\n")
    status = first.removeprefix("NATS/1.0").strip()
    headers = {"Status": status[:3]} if status else {}
    for line in lines:
        name, _, value = line.partition(":")
        headers[name] = value.strip()
    return headers
