# SPDX-License-Identifier: GPL-3.0-or-later
"""One kept HTTP connection to the sidecar, with the standard library alone.

This file stands in both plugin folders, the same byte for byte, so that each folder
can be copied into Hermes by itself.
"""

from __future__ import annotations

import http.client
import json
import socket
import ssl
from typing import Any
from urllib.parse import unquote, urlsplit

_MARKS = {"offset", "last_offset", "events", "code"}
"""Each answer of a sidecar has one of these members."""

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
        self._connection: _HttpConnection | None = None
        self._asked_ahead = ""

    def ask(
        self,
        method: str,
        path: str,
        timeout_seconds: float,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> Answer:
        """Send one request and give its answer; it never raises for a bad network."""
        if self._asked_ahead:  # its answer is not wanted any more
            self.close()
        failure = self._request(method, path, timeout_seconds, body, headers)
        return failure or self._response()

    def ask_ahead(self, path: str, timeout_seconds: float) -> None:
        """Send a GET whose answer is taken later, so that the sidecar works meanwhile.

        Nobody needs this answer yet: a failure is left to whoever asks next.
        """
        if self._request("GET", path, timeout_seconds) is None:
            try:
                self._connection.flush()  # type: ignore[union-attr]
                self._asked_ahead = path
            except OSError:
                self.close()

    def take_ahead(self, path: str) -> Answer | None:
        """Give the answer to what was asked ahead; None if that was something else."""
        if self._asked_ahead != path:
            return None
        self._asked_ahead = ""
        return self._response()

    def _request(
        self,
        method: str,
        path: str,
        timeout_seconds: float,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> Answer | None:
        """Get a request ready to be written; give an answer only where that fails."""
        try:
            headers = {**self._authorization(), **(headers or {})}
        except (OSError, ValueError):
            return _nothing(NOT_STORED, "the plugin's token_file cannot be read")
        try:
            connection = self._connect(timeout_seconds)
        except (OSError, ValueError):
            self.close()
            return _nothing(NOT_STORED, "no sidecar can be reached at the plugin's url")
        try:
            connection.request(method, path, body, headers)
        except ValueError:  # its text would show the header's value
            self.close()
            return _nothing(NOT_STORED, "the plugin's token_file holds no token")
        except BaseException:  # a signal: what is half ready must not be used again
            self.close()
            raise
        return None

    def _response(self) -> Answer:
        """Write what is ready and read its answer."""
        assert self._connection is not None  # noqa: S101 - _request made it
        try:
            response = self._connection.getresponse()
            text = response.read()
        except (OSError, http.client.HTTPException):
            self.close()
            return _nothing(UNKNOWN, "the sidecar does not answer")
        except BaseException:  # a signal: what is half sent must not be used again
            self.close()
            raise
        return _answer(response, text)

    def close(self) -> None:
        """Close the connection; the next request opens another."""
        self._asked_ahead = ""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _connect(self, timeout_seconds: float) -> _HttpConnection:
        if self._connection is None:
            self._connection = self._new_connection(timeout_seconds)
        if self._connection.sock is None:
            self._connection.connect()
        self._connection.sock.settimeout(timeout_seconds)
        return self._connection

    def _new_connection(self, timeout_seconds: float) -> _HttpConnection:
        if self._url.scheme == "unix":
            return _UnixConnection(unquote(self._url.path), timeout_seconds)
        host, port = self._url.hostname or "", self._url.port
        if self._url.scheme == "https":
            context = ssl.create_default_context(cafile=self._cafile)
            return _HttpsConnection(
                host, port, timeout=timeout_seconds, context=context
            )
        return _HttpConnection(host, port, timeout=timeout_seconds)

    def _authorization(self) -> dict[str, str]:
        if self._token_file is None:
            return {}
        with open(self._token_file, encoding="utf-8") as file:
            return {"Authorization": "Bearer " + file.read().strip()}


class _HttpConnection(http.client.HTTPConnection):
    """Sends headers and body in one write: each write wakes the sidecar up."""

    _unsent = b""

    def send(self, data: Any) -> None:
        self._unsent += data

    def flush(self) -> None:
        data, self._unsent = self._unsent, b""
        super().send(data)

    def getresponse(self) -> http.client.HTTPResponse:
        if self._unsent:
            self.flush()
        return super().getresponse()


class _HttpsConnection(_HttpConnection, http.client.HTTPSConnection):
    pass


class _UnixConnection(_HttpConnection):
    def __init__(self, path: str, timeout_seconds: float) -> None:
        super().__init__("localhost", timeout=timeout_seconds)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def _nothing(outcome: str, reason: str) -> Answer:
    return Answer(0, outcome, reason, {})


def _answer(response: http.client.HTTPResponse, text: bytes) -> Answer:
    status = response.status
    try:
        document = json.loads(text)
    except ValueError:
        document = None
    if not isinstance(document, dict) or _MARKS.isdisjoint(document):
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
