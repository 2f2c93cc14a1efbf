# SPDX-License-Identifier: Apache-2.0
"""A real HTTP server that plays the sidecar's answers to a plugin, and a clock."""

from __future__ import annotations

import json
import socket
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

NO_ANSWER = "no answer"
"""Read the request, then close the connection without a word."""


@dataclass
class Reply:
    """One answer: a status with a problem's code, or what else to do."""

    status: int
    document: dict[str, Any] = field(default_factory=dict)
    retry_after: str | None = None
    text: str | None = None
    """Sent in place of the document."""
    headers: dict[str, str] = field(default_factory=dict)
    missing_bytes: int = 0
    """So many of its last bytes do not come; then the connection closes."""


@dataclass
class Request:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def texts(self) -> list[bytes]:
        """Give the texts of its events, one if it is no batch."""
        if self.headers.get("content-type") != "application/json-seq":
            return [self.body]
        head, *texts = self.body.split(b"\x1e")
        assert head == b""
        assert all(text.endswith(b"\n") for text in texts)
        return [text[:-1] for text in texts]


L = 41
"""Where the stream ends when a producer plugin comes."""


def stored(offset: int, *, duplicate: bool = False) -> Reply:
    document = {"offset": offset, "duplicate": duplicate}
    return Reply(200 if duplicate else 201, document)


def stored_minimally(offset: int) -> Reply:
    """Answer as a sidecar does that was asked for no more than the entity tag."""
    return Reply(201, text="", headers={"ETag": f'"{offset}"'})


def stands(last: int, key: str | None = None) -> Reply:
    """Answer GET /v1/stream."""
    return Reply(200, {"last_offset": last, "last_key": key})


def no_pass(last: int = L) -> Reply:
    """Answer GET /v1/passes: no hermes-server was here before."""
    return passed(None, last=last)


def passed(
    start: int | None, *objects: str, last: int = L, complete: bool = True
) -> Reply:
    """Answer GET /v1/passes with the objects of a pass, each DIGEST OFFSET."""
    document = {"start": start, "objects": sorted(objects), "complete": complete}
    return Reply(200, document | {"first_offset": 1, "last_offset": last})


def matches(
    last: int,
    *,
    key: str | None = None,
    matches: bool = True,
    its_key: str | None = None,
    first: int = 1,
) -> Reply:
    """Answer POST /v1/match; `key` is the last event's, `its_key` the one's."""
    document = {"matches": matches, "key": its_key, "last_key": key}
    return Reply(200, document | {"first_offset": first, "last_offset": last})


def problem(
    status: int,
    code: str,
    outcome: str | None = None,
    retry_after: str | None = None,
    **members: Any,
) -> Reply:
    document = {"title": f"Title of {code}.", "remedy": "Mend it.", "code": code}
    if outcome is not None:
        document["outcome"] = outcome
    return Reply(status, document | members, retry_after)


def unknown(retry_after: str | None = "1") -> Reply:
    return problem(504, "unknown", "unknown", retry_after)


def taken(key: str | None, last: int) -> Reply:
    return problem(
        412, "precondition_failed", "not_stored", key=key, last_offset=last, offset=last
    )


class FakeSidecar:
    """Gives its answers in order, and the last one for ever."""

    def __init__(self, *answers: Reply | str) -> None:
        self.answers = list(answers)
        self.requests: list[Request] = []
        self.last_pass = no_pass()
        """The answer to GET /v1/passes, which takes none of the others."""
        self.passes: list[Request] = []
        self.connections = 0
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1  # one packet for headers and body
            disable_nagle_algorithm = True

            def setup(self) -> None:
                fake.connections += 1
                super().setup()

            def do_GET(self) -> None:
                size = int(self.headers.get("Content-Length", "0"))
                request = Request(
                    self.command,
                    self.path,
                    {name.lower(): value for name, value in self.headers.items()},
                    self.rfile.read(size),
                )
                is_pass = request.path.startswith("/v1/passes/")
                (fake.passes if is_pass else fake.requests).append(request)
                answer = fake.last_pass if is_pass else fake._next()
                if isinstance(answer, str):
                    self.close_connection = True
                    return
                text = answer.text
                if text is None:
                    text = json.dumps(answer.document)
                body = text.encode()
                self.send_response(answer.status)
                if answer.retry_after is not None:
                    self.send_header("Retry-After", answer.retry_after)
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body[: len(body) - answer.missing_bytes])
                self.close_connection |= answer.missing_bytes > 0

            do_POST = do_GET  # noqa: N815 - http.server's name

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.block_on_close = False
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.01}
        )

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def is_matched(self) -> bool:
        """Tell whether the last request asked whether an event is there."""
        return self.requests[-1].path.startswith("/v1/match?")

    @property
    def posts(self) -> list[Request]:
        return [request for request in self.requests if request.method == "POST"]

    def then(self, *answers: Reply | str) -> None:
        """Forget what is left and give these."""
        self.answers = list(answers)

    def _next(self) -> Reply | str:
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class BlackHole:
    """A listener that accepts and never answers."""

    def __enter__(self) -> Self:
        self._socket = socket.create_server(("127.0.0.1", 0))
        return self

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._socket.getsockname()[1]}"

    def __exit__(self, *_: object) -> None:
        self._socket.close()


class Clock:
    """Time that passes only while somebody sleeps."""

    def __init__(self) -> None:
        self.seconds = 1000.0
        self.slept: list[float] = []

    def now(self) -> float:
        return self.seconds

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.seconds += max(seconds, 0.001)


def timed(plugin: Any, clock: Clock) -> Any:
    """Give a plugin like this one, that lives by the test's clock."""

    class Timed(type(plugin)):  # type: ignore[misc] # a class of the test's Hermes
        _now = staticmethod(clock.now)
        _sleep = staticmethod(clock.sleep)

    return Timed(plugin._settings)
