# SPDX-License-Identifier: GPL-3.0-or-later
"""One kept HTTP connection to the sidecar, with the standard library alone.

This file stands in both plugin folders, the same byte for byte, so that each folder
can be copied into Hermes by itself.
"""

from __future__ import annotations

import http.client
import json
import re
import socket
import ssl
from typing import Any
from urllib.parse import unquote, urlsplit

_MEMBERS: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("offset", "first_offset", "last_offset", "next_offset"), (int,)),
    **dict.fromkeys(("code", "title", "remedy", "outcome"), (str,)),
    "key": (str, type(None)),
    "status": (int,),
    "events": (list,),
}
"""What a sidecar's documents hold; who has something else there is another."""

AHEAD_SECONDS = 5.0
"""How long the answer to what was asked ahead is waited for."""

_STORED = b'HTTP/1.1 201 Created\r\ncontent-length: 0\r\netag: "%d"\r\n\r\n'
"""The whole of what a sidecar answers to `Prefer: return=minimal`."""

_ENTITY_TAG = re.compile('"([0-9]{1,19})"')

STORED, NOT_STORED, UNKNOWN = "stored", "not_stored", "unknown"


class Answer:
    """What came of one request; status 0 where no answer came.

    `reason` is constant for a cause and holds nothing of a payload.
    """

    def __init__(
        self,
        status: int,
        outcome: str,
        reason: str,
        document: dict[str, Any],
        retry_after: float = 0.0,
    ) -> None:
        self.status = status
        self.outcome = outcome
        self.reason = reason
        self.document = document
        self.retry_after = retry_after


class SidecarHttp:
    """Asks the sidecar at a unix, http or https URL."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._url = urlsplit(settings["url"])
        self._token_file: str | None = settings.get("token_file")
        self._cafile: str | None = settings.get("cafile")
        self._socket: socket.socket | None = None
        self._asked_ahead = ""

    def ask(
        self, path: str, timeout_seconds: float, headers: dict[str, str] | None = None
    ) -> Answer:
        """Ask for something and give the answer; never raises for a bad network."""
        request = self._request("GET", path, timeout_seconds, headers=headers)
        return self._response(request)

    def store(
        self, body: bytes, headers: dict[str, str], offset: int, timeout_seconds: float
    ) -> Answer:
        """Ask to store an event, which is to stand at `offset`; give the answer."""
        request = self._request("POST", "/v1/events", timeout_seconds, body, headers)
        return self._response(request, offset=offset)

    def ask_page(self, path: str, timeout_seconds: float) -> Answer:
        """Ask for a page, and ahead for the one after it; see take_ahead."""
        return self._response(self._request("GET", path, timeout_seconds), ahead=True)

    def take_ahead(self, path: str) -> Answer | None:
        """Give the page that was asked ahead; None if that was another one."""
        if self._asked_ahead != path:
            return None
        self._asked_ahead = ""
        return self._response(b"", ahead=True)

    def _ask_ahead(self, response: http.client.HTTPResponse) -> None:
        """Ask for the next page before this one is read: the sidecar works meanwhile.

        Nobody needs its answer yet: a failure is left to whoever asks next.
        """
        path = response.getheader("Link", "").partition(">")[0][1:]
        request = self._request("GET", path, AHEAD_SECONDS) if path else b""
        if isinstance(request, bytes) and self._socket is not None:
            self._asked_ahead = path
            try:
                self._socket.sendall(request)
            except OSError:
                self.close()

    def _request(
        self,
        method: str,
        path: str,
        timeout_seconds: float,
        body: bytes = b"",
        headers: dict[str, str] | None = None,
    ) -> bytes | Answer:
        """Connect and give what is to be written, or an answer where that fails."""
        if self._asked_ahead:  # its answer is on the connection
            self.close()
        try:
            token = self._read_token()
        except (OSError, ValueError):
            return _nothing(NOT_STORED, "the plugin's token_file cannot be read")
        if not (token.isascii() and token.isprintable()):
            return _nothing(NOT_STORED, "the plugin's token_file holds no token")
        try:
            self._connect(timeout_seconds)
        except (OSError, ValueError):
            self.close()
            return _nothing(NOT_STORED, "no sidecar can be reached at the plugin's url")
        # http.client would take a twentieth of an event's time to write these lines.
        lines = [
            f"{method} {path} HTTP/1.1",
            f"Host: {self._url.netloc or 'localhost'}",
        ]
        if token:
            lines.append(f"Authorization: Bearer {token}")
        if body:
            lines.append(f"Content-Length: {len(body)}")
        if headers:
            lines += [f"{name}: {value}" for name, value in headers.items()]
        return "\r\n".join([*lines, "", ""]).encode() + body

    def _response(
        self,
        request: bytes | Answer,
        *,
        ahead: bool = False,
        offset: int | None = None,
    ) -> Answer:
        """Write a request in one go, for each write wakes the sidecar up; then read."""
        if isinstance(request, Answer):  # it could not be made
            return request
        assert self._socket is not None  # noqa: S101 - _request made it
        try:
            self._socket.sendall(request)
            if offset is not None and self._is_stored(offset):
                return Answer(201, STORED, "", {"offset": offset})
            response = http.client.HTTPResponse(self._socket)
            response.begin()
            text = response.read()
        except (OSError, http.client.HTTPException):
            self.close()
            return _nothing(UNKNOWN, "the sidecar does not answer")
        except BaseException:  # a signal: what is half sent must not be used again
            self.close()
            raise
        if response.will_close:
            self.close()
        elif ahead:
            self._ask_ahead(response)
        return _answer(response, text, "last_offset" if offset is None else "offset")

    def _is_stored(self, offset: int) -> bool:
        """Take the answer if it is, byte for byte, that the event stands there.

        It almost always is, and http.client would take a sixth of an event's time to
        read it. Whatever else has come, more or less, is left for http.client.
        """
        assert self._socket is not None  # noqa: S101 - _request made it
        if isinstance(self._socket, ssl.SSLSocket):
            return False  # cannot look without taking
        expected = _STORED % offset
        if self._socket.recv(len(expected) + 1, socket.MSG_PEEK) != expected:
            return False
        self._socket.recv(len(expected))
        return True

    def close(self) -> None:
        """Close the connection; the next request opens another."""
        self._asked_ahead = ""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _connect(self, timeout_seconds: float) -> None:
        if self._socket is None:
            self._socket = self._open(timeout_seconds)
        elif self._socket.gettimeout() != timeout_seconds:
            self._socket.settimeout(timeout_seconds)

    def _open(self, timeout_seconds: float) -> socket.socket:
        if self._url.scheme == "unix":
            unix = socket.socket(socket.AF_UNIX)
            unix.settimeout(timeout_seconds)
            try:
                unix.connect(unquote(self._url.path))
            except BaseException:
                unix.close()
                raise
            return unix
        host, port = self._url.hostname or "", self._url.port
        is_https = self._url.scheme == "https"
        context = ssl.create_default_context(cafile=self._cafile) if is_https else None
        address = (host, port or (443 if is_https else 80))
        tcp = socket.create_connection(address, timeout_seconds)
        tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return context.wrap_socket(tcp, server_hostname=host) if context else tcp

    def _read_token(self) -> str:
        if self._token_file is None:
            return ""
        with open(self._token_file, encoding="utf-8") as file:
            return file.read().strip()


def _nothing(outcome: str, reason: str) -> Answer:
    return Answer(0, outcome, reason, {})


def _answer(response: http.client.HTTPResponse, text: bytes, wanted: str) -> Answer:
    """Give the answer; `wanted` is the member that a good one has."""
    status = response.status
    document = _document(response, text)
    if status == 200 and wanted == "last_offset" and _is_ours(document, "code"):
        status = document.get("status", status)  # of a page that came slowly and failed
    if not _is_ours(document, wanted if status < 300 else "code"):
        reason = f"what answers at the plugin's url is no sidecar ({status})"
        return Answer(502, UNKNOWN, reason, {})
    if status < 300:
        return Answer(status, STORED, "", document)
    retry_after = response.getheader("Retry-After", "")
    return Answer(
        status,
        document.get("outcome", UNKNOWN),
        "{} {} ({})".format(*map(document.get, ("title", "remedy", "code"))),
        document,
        float(retry_after) if retry_after.isdecimal() else 0.0,
    )


def _is_ours(document: Any, wanted: str) -> bool:
    """Tell a sidecar's document from that of a gateway, or of a stranger."""
    return (
        isinstance(document, dict)
        and wanted in document
        and all(
            type(document[name]) in kinds
            for name, kinds in _MEMBERS.items()
            if name in document
        )
    )


def _document(response: http.client.HTTPResponse, text: bytes) -> Any:
    """Read the body, or where none was wanted the entity tag in its place.

    http.client takes a head for whole that was cut off: only the closing quote shows
    that the offset is.
    """
    if response.status in (200, 201) and response.getheader("Content-Length") == "0":
        tag = _ENTITY_TAG.fullmatch(response.getheader("ETag", ""))
        return tag and {"offset": int(tag[1])}
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
