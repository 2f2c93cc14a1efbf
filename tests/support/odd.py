# SPDX-License-Identifier: Apache-2.0
"""Replies in no form that nats-server gives: of a responder with a bug, or forged.

Whatever is asked, such a one is no reply. Of a form that is right nobody could tell;
whoever sends it must know the token of a request that waits.
"""

from __future__ import annotations

import base64
import json
import re
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from random import Random

Kind = Literal["publish", "api", "batch"]

_API: Final = b"io.nats.jetstream.api.v1."
_NO_OBJECTS: Final = (
    b"",
    b"nope",
    b"\xff\xfe",
    b"null",
    b"7",
    b'"text"',
    b"[]",
    b"[[1]]",
    b"{}",
    b"[" * 100_000,
    b'{"type":' * 50_000,
    b"9" * 5_000,
    b"[%b0]" % (b"0," * 50_000),
    b'{"error":"x"}',
    b'{"error":[1]}',
    b'{"type":7,"stream":7,"seq":7,"error":7}',
)
_STATES: Final = (
    b"NATS/1.0 404 Message Not Found\r\n\r\n",
    b"NATS/1.0 408 Empty Request\r\n\r\n",
    b"NATS/1.0 \xff\r\n\r\n",
)
_NUMBERS: Final[tuple[Any, ...]] = ("9", None, True, 9.5, [9], {}, -9, 1 << 70)
_TEXTS: Final[tuple[Any, ...]] = (9, None, True, ["x"], {})


class Reply(NamedTuple):
    """A header block, or b"", and data."""

    block: bytes
    data: bytes

    @property
    def kind(self) -> Kind:
        """Tell what it answers."""
        if self.block:
            return "batch"
        return "api" if self.data.startswith(b'{"type":"' + _API) else "publish"


def acknowledgement(stream: str, sequence: int) -> bytes:
    """Write a PubAck."""
    return b'{"stream":"%b","seq":%d}' % (stream.encode(), sequence)


def refusal(stream: str) -> bytes:
    """Write a definite refusal of an event."""
    error = '{"code":400,"err_code":10054,"description":"message size exceeds maximum"}'
    return f'{{"error":{error},"stream":"{stream}","seq":0}}'.encode()


def no_stream(kind: str = "stream_info") -> bytes:
    """Write that there is no such stream."""
    error = {"code": 404, "err_code": 10059, "description": "stream not found"}
    return json.dumps(
        {"type": f"{_API.decode()}{kind}_response", "error": error}
    ).encode()


def odd(true: Reply, stream: str, last: int, rng: Random) -> Reply:
    """Draw what comes in the place of a true reply, or before it.

    `last`: where the stream ends, for what would be believed but for its form.
    """
    kinds: list[Callable[[], Sequence[Reply]]] = [_without_sense]
    if true.kind == "batch":
        kinds += [partial(_of_batch, true)] * 2
    else:
        block = b"NATS/1.0\r\nNats-Stream: %b\r\nNats-Sequence: %d\r\n\r\n"
        headed = block % (stream.encode(), last)
        kinds += [partial(_with_headers, headed, true, stream, last)] * 2
        of_kind = _of_api if true.kind == "api" else _of_publish
        kinds += [partial(of_kind, true, stream)] * 2
    return rng.choice(rng.choice(kinds)())


def _without_sense() -> list[Reply]:
    return [Reply(b"", data) for data in _NO_OBJECTS] + [
        Reply(block, b"") for block in _STATES
    ]


def _with_headers(block: bytes, true: Reply, stream: str, last: int) -> list[Reply]:
    """Give what the server's own answer to a direct get would be."""
    datas = acknowledgement(stream, last + 1), refusal(stream), no_stream(), true.data
    return [Reply(block, data) for data in datas]


def _of_publish(_: Reply, stream: str) -> list[Reply]:
    acks = [{"stream": stream, "seq": number} for number in _NUMBERS]
    refusals = [
        {"stream": stream, "error": error}
        for error in ("x", [10071], {}, {"err_code": "10071"}, {"err_code": None})
    ]
    nobody: dict[str, Any] = {"seq": 9}
    another = nobody | {"stream": "another"}
    documents = [*acks, *refusals, {"stream": stream}, nobody, another]
    return [
        *(Reply(b"", json.dumps(each).encode()) for each in documents),
        Reply(b"", b'{"stream":"%b","seq":%b}' % (stream.encode(), b"9" * 5_000)),
        Reply(b"", no_stream()),
    ]


def _of_api(true: Reply, stream: str) -> list[Reply]:
    document = json.loads(true.data)
    documents = [*_changed(document), *_of_type(document)]
    return [
        *(Reply(b"", json.dumps(each).encode()) for each in documents),
        Reply(b"", no_stream("consumer_info")),
        Reply(b"", acknowledgement(stream, 9)),
        Reply(b"", true.data[: len(true.data) // 2]),
    ]


def _of_type(document: dict[str, Any]) -> list[dict[str, Any]]:
    another = f"{_API.decode()}stream_names_response"
    return [document | {"type": kind} for kind in (another, *_TEXTS)]


def _changed(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Give the same with one member of a kind that it never has."""
    for name, values in (("error", ("x", [1], 5)), ("state", _TEXTS)):
        if name == "error" or name in document:
            yield from (document | {name: value} for value in values)
    if "state" in document:
        yield from (document | {"created": value} for value in _TEXTS)
        for name in ("first_seq", "last_seq", "messages"):
            for value in _NUMBERS:
                yield document | {"state": document["state"] | {name: value}}
        for name in ("name", "subjects"):
            yield document | {"config": document["config"] | {name: 5}}
        yield document | {"config": document["config"] | {"name": "another"}}
    if "message" in document:
        message = document["message"]
        yield from (document | {"message": value} for value in _TEXTS)
        members: dict[str, tuple[Any, ...]] = {
            "seq": _NUMBERS,
            "subject": _TEXTS,
            "time": _TEXTS,
            "data": (*_TEXTS, "@@@@", "e"),
            "hdrs": (*_TEXTS, "@@@@", "e"),
        }
        for name, values in members.items():
            yield from (document | {"message": message | {name: v}} for v in values)


def _of_batch(true: Reply) -> list[Reply]:
    block, data = true
    changes = (
        (rb"Nats-Stream: [^\r]*", b"Nats-Stream: another"),
        (rb"Nats-Stream: [^\r]*\r\n", b""),
        (rb"Nats-Sequence: [^\r]*", b"Nats-Sequence: x"),
        (rb"Nats-Sequence: [^\r]*", b"Nats-Sequence: %b" % (b"9" * 5_000)),
        (rb"Nats-Subject: [^\r]*", b"Nats-Subject: \xff"),
        (rb"Nats-Last-Sequence: [^\r]*\r\n", b""),
    )
    return [
        true,  # twice
        Reply(b"", data),
        Reply(b"", base64.b64encode(data)),
        *(Reply(re.sub(what, by, block), data) for what, by in changes),
    ]
