# SPDX-License-Identifier: Apache-2.0
"""Bad requests, drawn from a Random: none of them may ever be stored. Pure.

The Random may be Hypothesis' own, which then shrinks what it drew.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

End = Literal["wait", "half close", "cut"]


@dataclass(frozen=True)
class Bad:
    """What is written to one connection, piece by piece, and how that ends.

    wait: for an answer, then half-close; cut: gone without reading.
    """

    kind: str
    pieces: tuple[bytes, ...]
    end: End


_EVENT = {
    "evcategory": "base",
    "eventtype": "added",
    "objtype": "Users",
    "objpkey": 7,
    "objattrs": {"login": "bad"},
}
_TOKENS = (
    *(b"\r\n", b"\r\n\r\n", b"\n", b"\0", b": ", b" ", b"\t", b"\xff", b"%00", b"%"),
    *(b"HTTP/1.1", b"HTTP/9.9", b"GET ", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"//"),
    *(b"Content-Length: 0\r\n", b"Content-Length: 99999999999999999999\r\n"),
    *(b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: gzip\r\n"),
    *(
        b"Expect: 100-continue\r\n",
        b"Connection: close\r\n",
        b"Connection: upgrade\r\n",
    ),
    *(
        b"Upgrade: websocket\r\n",
        b"Upgrade: h2c\r\n",
        b"Host: \r\n",
        b"Host: a.b.c\r\n",
    ),
    *(b"Idempotency-Key: \r\n", b"Content-Type: text/plain\r\n", b"{", b"}", b"[" * 50),
    *(b"\\ud800", b"NaN", b"1e999", b"9" * 400, b"A" * 20_000, b"-", b'""'),
    b"\x1e",
)
_VALUES = (
    *(b"", b" ", b"\t", b"*/*", b'"', b'"1', b'W/"1"', b'"1", "2"', b'"-1"', b'"01"'),
    *(b'"99999999999999999999"', b"\xc3\xa9", b"\xff\xfe", b"a" * 200, b"a" * 5000),
    *(b"application/json; charset=utf-16", b"application/json, text/html", b"a\0b"),
    *(b"application/json-seq", b"application/json-seq; a=b"),
    *(b"100-continue", b"websocket", b"chunked, chunked", b"identity", b"0", b"1 1"),
)
_NAMES = (
    *(b"Idempotency-Key", b"If-Match", b"Content-Type", b"Authorization", b"Host"),
    *(b"Content-Length", b"Transfer-Encoding", b"Expect", b"Upgrade", b"Connection"),
    *(b"X-Forwarded-For", b"Cookie", b"Range", b"Trailer", b"TE", b"", b"a b", b"\xff"),
)
_METHODS = (
    *(b"GET", b"PUT", b"DELETE", b"PATCH", b"HEAD", b"OPTIONS", b"TRACE", b"CONNECT"),
    *(b"get", b"POST", b"PROPFIND", b"M-SEARCH", b"SOURCE", b"X" * 300, b""),
)
_TARGETS = (
    *(b"/v1/events", b"/v1/stream", b"/v1", b"/v1/", b"//v1/events", b"/V1/EVENTS"),
    *(b"/v1/events/", b"/v1/%65vents", b"/v1/../v1/events", b"/./v1/events", b"*"),
    *(b"http://localhost/v1/events", b"localhost:80", b"/docs", b"/openapi.json", b""),
    *(
        b"/health",
        b"/health/live",
        b"/metrics",
        b"/",
        b"/\xff",
        b"/%ff",
        b"/%zz",
        b"/\0",
    ),
)
_SIZES = (
    *(b"zz", b"-1", b"+5", b" 5", b"0x5", b"5 5", b"ffffffffffffffff", b"1" * 40, b""),
    *(b";" + b"x" * 9000, b"5\n", b"\xff", b"5\r5", b"7fffffffffffffff", b"00000005;"),
)
_LENGTHS = (
    *(b"-1", b"+5", b"5, 6", b"5 6", b"0x10", b"99999999999999999999999", b"", b"\xff"),
    *(b"1e3", b"5\0", b"4294967296", b"9223372036854775807", b"\xd9\xa3"),
)


def post(body: bytes, *headers: bytes, precondition: bytes = b'"1"') -> bytes:
    """Write a POST; by default after an offset that is gone, and so never stored."""
    fields = headers or (b"Content-Length: %d" % len(body),)
    return b"\r\n".join(
        [
            b"POST /v1/events HTTP/1.1",
            b"Host: localhost",
            b"Content-Type: application/json",
            b"Idempotency-Key: bad",
            b"If-Match: " + precondition,
            *fields,
            b"",
            body,
        ]
    )


def bad_request(random: Random) -> Bad:
    """Draw one."""
    make = random.choice(_MAKERS)
    data = make(random)
    end: End = random.choice(("wait", "wait", "wait", "half close", "cut"))
    pieces: tuple[bytes, ...] = (data,)
    if random.randrange(16) == 0:
        dripped = min(len(data), random.choice((300, 1200)))
        pieces = (*(data[i : i + 1] for i in range(dripped)), data[dripped:])
    elif random.randrange(8) == 0:
        cut = random.randrange(len(data) + 1)
        pieces = (data[:cut], data[cut:])
    return Bad(make.__name__.strip("_").replace("_", " "), pieces, end)


def _noise(random: Random) -> bytes:
    size = random.choice((1, 4, 30, 300, 2000))
    return bytes(random.randrange(256) for _ in range(random.randrange(size) + 1))


def _mutated(random: Random) -> bytes:
    data = bytearray(post(json.dumps(_EVENT).encode()))
    for _ in range(random.randrange(6) + 1):
        at = random.randrange(len(data) + 1)
        match random.randrange(5):
            case 0:
                data[at : at + 1] = bytes([random.randrange(256)])
            case 1:
                data[at:at] = random.choice(_TOKENS)
            case 2:
                del data[at : at + random.randrange(40)]
            case 3:
                data[at:at] = data[at : at + random.randrange(200)]
            case _:
                data[at:] = data[at : at + random.randrange(len(data) + 1)]
        data = data or bytearray(b"\r\n")
    return bytes(data)


def _strange_event(random: Random) -> bytes:
    """Be well-formed HTTP around JSON that is no event, or one with a gone offset."""
    category: object = random.choice(
        (
            "",
            "a b",
            "é",
            "x" * 65,
            None,
            7,
            ["base"],
            {},
            "base\n",
            "a.b",
            "*",
            ">",
            True,
        )
    )
    bodies: tuple[bytes, ...] = (
        *(b"", b"[]", b"null", b"7", b'"x"', b"{", b"{}", b"\xff", b"\xef\xbb\xbf{}"),
        *(b"[" * 100_000, b'{"a":' * 50_000, b"9" * 5000, b'{"evcategory":"base"}x'),
        json.dumps(_EVENT | {"evcategory": category}).encode(),
        json.dumps(_EVENT | {"eventtype": category, "objtype": category}).encode(),
        json.dumps(_EVENT).encode("utf-16"),
        json.dumps(_EVENT | {"objpkey": "x" * random.randrange(30_000)}).encode(),
    )
    return post(random.choice(bodies))


def _strange_headers(random: Random) -> bytes:
    body = json.dumps(_EVENT).encode()
    lines = [b"Content-Length: %d" % len(body)]
    for _ in range(random.randrange(4) + 1):
        line = random.choice(_NAMES) + b": " + random.choice(_VALUES)
        lines.insert(random.randrange(len(lines) + 1), line)
    if random.randrange(20) == 0:
        lines += [b"X-%d: x" % number for number in range(2000)]
    return post(body, *lines)


def _strange_target(random: Random) -> bytes:
    target = random.choice(_TARGETS)
    names = (b"offset", b"limit", b"max_bytes", b"wait", b"category", b"x", b"")
    values = (
        b"first",
        b"next",
        b"0",
        b"-1",
        b"1",
        b"9" * 30,
        b"%00",
        b"60",
        b"nan",
        b"",
    )
    for _ in range(random.randrange(4)):
        pair = random.choice(names) + b"=" + random.choice((*values, *_VALUES))
        target += random.choice((b"?", b"&", b"#")) + pair
    version = random.choice((b"HTTP/1.1", b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2.0", b""))
    head = b" ".join((random.choice(_METHODS), target, version))
    return head + b"\r\nHost: localhost\r\n\r\n"


def _bad_chunks(random: Random) -> bytes:
    """Hide a good event after a chunk whose size is no size."""
    hidden = post(json.dumps(_EVENT).encode(), precondition=b"*")
    size = random.choice(_SIZES)
    good = b'5\r\n{"a":\r\n' * random.randrange(3)
    body = good + size + b"\r\nhello\r\n0\r\n\r\n" + hidden
    return post(body, b"Transfer-Encoding: chunked")


def _bad_lengths(random: Random) -> bytes:
    """Hide a good event behind a length that two parsers could read in two ways."""
    hidden = post(json.dumps(_EVENT).encode(), precondition=b"*")
    chunked = b"0\r\n\r\n" + hidden
    match random.randrange(5):
        case 0:
            return post(
                chunked,
                b"Content-Length: %d" % random.randrange(len(chunked)),
                b"Transfer-Encoding: chunked",
            )
        case 1:
            return post(
                chunked,
                b"Transfer-Encoding: chunked",
                b"Content-Length: %d" % random.randrange(len(chunked)),
            )
        case 2:
            return post(hidden, b"Content-Length: 0", b"Content-Length: 5")
        case 3:
            codings = (b"chunked, identity", b"xchunked", b"chunked\0", b"gzip")
            return post(chunked, b"Transfer-Encoding: " + random.choice(codings))
        case _:
            return post(hidden, b"Content-Length: " + random.choice(_LENGTHS))


def _upgraded(random: Random) -> bytes:
    """Hide a good event in the body of a request that asks for another protocol."""
    hidden = post(json.dumps(_EVENT).encode(), precondition=b"*")
    fields = [
        random.choice((b"Connection: Upgrade", b"connection: close, upgrade")),
        b"Upgrade: " + random.choice((b"h2c", b"websocket", b"TLS/1.0", b"x, y", b"")),
    ]
    if random.randrange(2):
        size = b"%x" % len(hidden)
        body = size + b"\r\n" + hidden + b"\r\n0\r\nA: " + hidden[:40] + b"\r\n\r\n"
        fields.append(b"Transfer-Encoding: chunked")
    else:
        body = hidden
        fields.append(b"Content-Length: %d" % len(body))
    random.shuffle(fields)
    start = post(b"", b"Content-Length: 0", *fields[:2]) * random.randrange(2)
    return start + post(body, *fields)


def _expecting(random: Random) -> bytes:
    """Put a good event in the place of a body that is refused before it was sent."""
    hidden = post(json.dumps(_EVENT).encode(), precondition=b"*")
    refused = post(hidden, b"Content-Length: %d" % len(hidden), b"Expect: 100-continue")
    return random.choice(
        (
            refused,
            refused.replace(b"application/json", b"text/plain", 1),
            refused.replace(b"Idempotency-Key: bad\r\n", b"", 1),
            refused.replace(b"POST /v1/events", b"PUT /v1/events", 1),
            refused.replace(
                b"Content-Length", b"Content-Encoding: gzip\r\nContent-Length"
            ),
        )
    )


def _pipelined(random: Random) -> bytes:
    makers = (_mutated, _strange_event, _strange_target, _strange_headers, _noise)
    return b"".join(
        random.choice(makers)(random) for _ in range(random.randrange(6) + 2)
    )


def _unfinished(random: Random) -> bytes:
    data = post(json.dumps(_EVENT).encode())
    return data[: random.randrange(len(data))]


_MAKERS: tuple[Callable[[Random], bytes], ...] = (
    _noise,
    _mutated,
    _mutated,
    _strange_event,
    _strange_headers,
    _strange_target,
    _bad_chunks,
    _bad_lengths,
    _upgraded,
    _expecting,
    _pipelined,
    _unfinished,
)
