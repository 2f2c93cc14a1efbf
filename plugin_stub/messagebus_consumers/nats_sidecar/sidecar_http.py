# SPDX-License-Identifier: GPL-3.0-or-later
"""One kept HTTP connection to the sidecar, with the standard library alone.

This file stands in both plugin folders, the same byte for byte, so that each folder
can be copied into Hermes by itself.

Long because it is one connection: who writes, reads or closes it must know what the
others left on it.
"""

from __future__ import annotations

import errno
import http.client
import io
import json
import re
import socket
import ssl
import time
from json.decoder import scanstring  # type: ignore[attr-defined]
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

_MEMBERS: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("offset", "first_offset", "last_offset", "next_offset"), (int,)),
    "index": (int,),
    **dict.fromkeys(("code", "title", "remedy", "outcome"), (str,)),
    "key": (str, type(None)),
    "status": (int,),
    **dict.fromkeys(("events", "objects"), (list,)),
    **dict.fromkeys(("matches", "complete"), (bool,)),
    "start": (int, type(None)),
}
"""What a sidecar's documents hold; who has something else there is another."""

_MAX_NUMBER = 2**53 - 1
_CODE = re.compile("[a-z_]{1,64}")
_SENTENCES = re.compile("[ -~]{0,400}")
"""What may come into Hermes' log: one short line, whoever answers."""

AHEAD_SECONDS = 5.0
"""How long the answer to what was asked ahead is waited for."""

PAGE_SECONDS = 600.0
"""How long a page may come: it may be large, and a link slow. Any other answer has to
be whole in the time that is given."""

_BYTES_A_SECOND = 4096
"""A page that comes, or an event that goes, is given a second more for each of
these."""

_PIECE_BYTES = 64 * 1024
"""What is read at once; and what the kernel may keep of an event that goes, for the
time of its answer begins when the kernel has all of it."""

_DOCUMENT_BYTES = 1024 * 1024
_PAGE_BYTES = 96 * 1024 * 1024
"""Room for one event of 32 MB, the most that JetStream takes, as text in JSON."""

_PAGES = ("/v1/events?", "/v1/passes/")
_NEXT = re.compile(r'<(/v1/events\?[\w=&%.-]{1,500})>; rel="next"', re.ASCII)
_STORED = b'HTTP/1.1 201 Created\r\ncontent-length: 0\r\netag: "%d"\r\n\r\n'
"""The whole of what a sidecar answers to `Prefer: return=minimal`."""

_ENTITY_TAG = re.compile('"([0-9]{1,19})"')

_OF_SYSTEM = {
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.ENOENT: "there is no such socket",
    errno.ENOTDIR: "there is no such socket",
    errno.ECONNREFUSED: "connection refused",
    errno.ECONNRESET: "it closed the connection",
    errno.EPIPE: "it closed the connection",
    errno.EHOSTUNREACH: "there is no route to it",
    errno.ENETUNREACH: "there is no route to it",
    errno.EAGAIN: "it accepts no connection in time",
    errno.ETIMEDOUT: "it did not answer in time",
    errno.EMFILE: "Hermes has no file descriptor left",
}
_OF_CERTIFICATE = {
    9: "its certificate is not valid yet",
    10: "its certificate has expired",
    62: "its certificate is not for this name",
    64: "its certificate is not for this address",
}
"""Of OpenSSL's x509_vfy.h."""

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
    """Asks the sidecar at a unix, http or https URL, under the name `agent`."""

    def __init__(self, settings: dict[str, Any], agent: str = "") -> None:
        self._agent = agent
        self._url = urlsplit(settings["url"])
        self._token_file: str | None = settings.get("token_file")
        self._cafile: str | None = settings.get("cafile")
        self._socket: socket.socket | None = None
        self._timeout_seconds = 0.0  # of the request under way
        self._asked_ahead = ""
        self._unbegun: Answer | None = None  # why begin_store could not

    def ask(
        self,
        path: str,
        timeout_seconds: float,
        headers: dict[str, str] | None = None,
        body: bytes = b"",
        wanted: str = "last_offset",
    ) -> Answer:
        """Ask for something and give the answer; never raises for a bad network.

        `wanted` is the member that a good answer has.
        """
        method = "POST" if body else "GET"
        request = self._request(method, path, timeout_seconds, body, headers)
        is_page = path.startswith(_PAGES)
        return self._response(request, is_page=is_page, wanted=wanted)

    def store(
        self, body: bytes, headers: dict[str, str], offset: int, timeout_seconds: float
    ) -> Answer:
        """Ask to store an event, which is to stand at `offset`; give the answer."""
        request = self._request("POST", "/v1/events", timeout_seconds, body, headers)
        return self._response(request, offset=offset)

    def begin_store(
        self, body: bytes, headers: dict[str, str], timeout_seconds: float
    ) -> None:
        """Ask to store, and leave the answer to end_store: Hermes works meanwhile."""
        path = "/v1/events"
        request = self._request("POST", path, timeout_seconds, body, headers)
        self._unbegun = request if isinstance(request, Answer) else None
        self._send_ahead(path, request)

    def end_store(self, offset: int) -> Answer:
        """Give the answer to begin_store, where the last event is to be at `offset`."""
        if self._unbegun is not None:
            return self._unbegun
        if not self._asked_ahead:
            return _nothing(UNKNOWN, "the sidecar does not answer")
        self._asked_ahead = ""
        return self._response(b"", offset=offset)

    def ask_page(self, path: str, timeout_seconds: float) -> Answer:
        """Ask for a page, and ahead for the one after it; see take_ahead."""
        request = self._request("GET", path, timeout_seconds)
        return self._response(request, is_page=True, ahead=True)

    def take_ahead(self, path: str) -> Answer | None:
        """Give the page that was asked ahead; None if that was another one."""
        if self._asked_ahead != path:
            return None
        self._asked_ahead = ""
        return self._response(b"", is_page=True, ahead=True)

    def _ask_ahead(self, response: http.client.HTTPResponse) -> None:
        """Ask for the next page before this one is read: the sidecar works meanwhile.

        Nobody needs its answer yet: a failure is left to whoever asks next.
        """
        link = _NEXT.fullmatch(response.getheader("Link", ""))
        if link:
            self._send_ahead(link[1], self._request("GET", link[1], AHEAD_SECONDS))

    def _send_ahead(self, path: str, request: bytes | Answer) -> None:
        """Write a request, if it could be made, whose answer is read later."""
        if isinstance(request, Answer):
            return
        self._asked_ahead = path
        try:
            self._write(request)
        except OSError:
            self.close()
        except BaseException:  # a signal: what is half sent must not be used again
            self.close()
            raise

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
        except (OSError, ValueError) as error:
            self.close()
            reason = f"no sidecar at {_shown(self._url)}: {_why(error)}"
            return _nothing(NOT_STORED, reason)
        # http.client would take a twentieth of an event's time to write these lines.
        lines = [
            f"{method} {path} HTTP/1.1",
            f"Host: {self._url.netloc or 'localhost'}",
        ]
        if self._agent:
            lines.append(f"User-Agent: {self._agent}")
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
        is_page: bool = False,
        ahead: bool = False,
        offset: int | None = None,
        wanted: str = "last_offset",
    ) -> Answer:
        """Write a request in one go, for each write wakes the sidecar up; then read."""
        if isinstance(request, Answer):  # it could not be made
            return request
        assert self._socket is not None  # noqa: S101 - _request made it
        try:
            self._write(request)
            ends_at = time.monotonic() + self._timeout_seconds
            if offset is not None and self._is_stored(offset):
                return Answer(201, STORED, "", {"offset": offset})
            arriving = _Arriving(self._socket, ends_at)
            response = http.client.HTTPResponse(arriving)  # type: ignore[arg-type]
            response.begin()
            text = _text(response, arriving, is_page)
        except _TooMuch:
            self.close()
            return _strangers(0)
        except Exception:  # noqa: BLE001 - whatever http.client trips on
            self.close()
            return _nothing(UNKNOWN, "the sidecar does not answer")
        except BaseException:  # a signal: what is half sent must not be used again
            self.close()
            raise
        if response.will_close:
            self.close()
        elif ahead:
            self._ask_ahead(response)
        return _answer(response, text, wanted if offset is None else "offset")

    def _write(self, request: bytes) -> None:
        """Write a request; a large one may take longer, as long as it is taken."""
        assert self._socket is not None  # noqa: S101 - _request made it
        size_bytes = len(request)
        if size_bytes <= _BYTES_A_SECOND and not isinstance(
            self._socket, ssl.SSLSocket
        ):
            self._socket.sendall(request)
            return
        most_seconds = self._timeout_seconds + size_bytes / _BYTES_A_SECOND
        ends_at = time.monotonic() + min(most_seconds, PAGE_SECONDS)
        left = memoryview(request)
        while left:
            left_seconds = ends_at - time.monotonic()
            if left_seconds <= 0:
                raise TimeoutError
            self._socket.settimeout(min(left_seconds, self._timeout_seconds))
            left = left[self._socket.send(left) :]
        self._socket.settimeout(self._timeout_seconds)

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
        self._timeout_seconds = timeout_seconds
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
        context = self._trusting() if is_https else None
        address = (host, port or (443 if is_https else 80))
        tcp = socket.create_connection(address, timeout_seconds)
        tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _PIECE_BYTES)
        return context.wrap_socket(tcp, server_hostname=host) if context else tcp

    def _trusting(self) -> ssl.SSLContext:
        try:
            return ssl.create_default_context(cafile=self._cafile)
        except OSError:  # ssl.SSLError is one
            raise _NoCaError from None

    def _read_token(self) -> str:
        if self._token_file is None:
            return ""
        with open(self._token_file, encoding="utf-8") as file:
            return file.read().strip()


class _TooMuch(Exception):  # noqa: N818 - nobody sees it
    """More than a sidecar answers."""


class _NoCaError(ValueError):
    """The plugin's cafile cannot be read."""


def _nothing(outcome: str, reason: str) -> Answer:
    return Answer(0, outcome, reason, {})


def _shown(url: SplitResult) -> str:
    """Write a url for people: where a connection goes to. It has no password."""
    path = url.path if url.scheme == "unix" else ""
    where = f"{url.scheme}://{url.netloc}{path}"
    return "".join(each if " " < each <= "~" else "?" for each in where)[:200]


def _why(error: Exception) -> str:
    """Say why there is no connection: ours for each cause, nothing of what was said."""
    if isinstance(error, _NoCaError):
        return "the plugin's cafile cannot be read"
    if isinstance(error, ssl.SSLCertVerificationError):
        return _OF_CERTIFICATE.get(error.verify_code, "its certificate is not trusted")
    if isinstance(error, ssl.SSLError):
        return "the TLS handshake failed"
    if isinstance(error, socket.gaierror):
        return "the name of the host cannot be resolved"
    if isinstance(error, TimeoutError):
        return "it did not answer in time"
    if isinstance(error, OSError):
        return _OF_SYSTEM.get(error.errno or 0, "it cannot be reached")
    return "the plugin's url is wrong"


class _Arriving(io.RawIOBase):
    """What comes of a socket until a moment, and of it no more than so many bytes.

    http.client would wait anew for each byte, and read headers and trailers for ever.
    `most_bytes` and `ends_at` may be moved while it comes.
    """

    def __init__(self, connection: socket.socket, ends_at: float) -> None:
        self._connection = connection
        self.ends_at = ends_at
        self.most_bytes = _PIECE_BYTES  # of a head
        self._taken_bytes = 0

    def makefile(self, _: str) -> io.BufferedReader:
        """Give what http.client reads of."""
        return io.BufferedReader(self, _PIECE_BYTES)

    def readable(self) -> bool:
        """Say that this can be read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Take what is there; raise TimeoutError or _TooMuch."""
        left_seconds = self.ends_at - time.monotonic()
        if self._taken_bytes >= self.most_bytes:
            raise _TooMuch
        if left_seconds <= 0:
            raise TimeoutError
        self._connection.settimeout(left_seconds)
        size_bytes = self._connection.recv_into(buffer)
        self._taken_bytes += size_bytes
        return size_bytes


def _text(
    response: http.client.HTTPResponse, arriving: _Arriving, is_page: bool
) -> str:
    """Read a body, which is ASCII; a page may come slowly, and white space before it.

    With that the sidecar shows that it is still reading.
    """
    most_bytes = _PAGE_BYTES if is_page else _DOCUMENT_BYTES
    left_bytes = response.length  # None where its end is seen only when it is there
    last_moment = time.monotonic() + PAGE_SECONDS
    body = bytearray()
    while left_bytes != 0:
        announced = response.chunk_left if response.chunked else left_bytes
        if len(body) + (announced or 0) > most_bytes:
            raise _TooMuch
        # What is no body is short: nobody cuts it into chunks of a byte.
        arriving.most_bytes = 2 * len(body) + 4 * _PIECE_BYTES
        piece = response.read1(min(_PIECE_BYTES, left_bytes or _PIECE_BYTES))
        if not piece:
            break
        body += piece
        if left_bytes is not None:
            left_bytes -= len(piece)
        if is_page:
            ends_at = arriving.ends_at + len(piece) / _BYTES_A_SECOND
            if body.isspace():
                ends_at = max(ends_at, time.monotonic() + AHEAD_SECONDS)
            arriving.ends_at = min(ends_at, last_moment)
    if left_bytes:
        raise http.client.IncompleteRead(b"")
    return body.decode() if body.isascii() else ""


def _answer(response: http.client.HTTPResponse, text: str, wanted: str) -> Answer:
    """Give the answer; `wanted` is the member that a good one has."""
    status = response.status
    document = _document(response, text)
    if status == 200 and wanted != "offset" and _is_ours(document, "code"):
        status = document.get("status", status)  # of a page that came slowly and failed
    if not _is_ours(document, wanted if status < 300 else "code"):
        return _strangers(status)
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


def _strangers(status: int) -> Answer:
    reason = f"what answers at the plugin's url is no sidecar ({status})"
    return Answer(502, UNKNOWN, reason, {})


def _is_ours(document: Any, wanted: str) -> bool:
    """Tell a sidecar's document from that of a gateway, or of a stranger."""
    return (
        isinstance(document, dict)
        and wanted in document
        and all(
            _is_sound(name, document[name], kinds)
            for name, kinds in _MEMBERS.items()
            if name in document
        )
    )


def _is_sound(name: str, value: Any, kinds: tuple[type, ...]) -> bool:
    """Tell whether a sidecar says this under that name."""
    if type(value) not in kinds:
        return False
    if type(value) is int:
        return 0 <= value <= _MAX_NUMBER
    if name == "code":
        return _CODE.fullmatch(value) is not None
    return name not in ("title", "remedy") or _SENTENCES.fullmatch(value) is not None


def _document(response: http.client.HTTPResponse, text: str) -> Any:
    """Read the body, or where none was wanted the entity tag in its place.

    http.client takes a head for whole that was cut off: only the closing quote shows
    that the offset is.
    """
    if response.status in (200, 201) and response.getheader("Content-Length") == "0":
        tag = _ENTITY_TAG.fullmatch(response.getheader("ETag", ""))
        return tag and {"offset": int(tag[1])}
    try:
        return None if _is_wide(text) else json.loads(text)
    except (ValueError, RecursionError):
        return None


def _is_wide(text: str) -> bool:
    """Tell whether it holds more besides texts than any page does.

    A list of three bytes takes sixty in memory.
    """
    wide, at = 0, 0
    if len(text) > _DOCUMENT_BYTES:
        while wide <= _DOCUMENT_BYTES and (start := text.find('"', at)) >= 0:
            wide += start - at + 1
            _, at = scanstring(text, start + 1)
        wide += len(text) - at
    return wide > _DOCUMENT_BYTES
