# SPDX-License-Identifier: Apache-2.0
"""HTTP to the running daemon of the same settings, for commands. Edge to httpx."""

from __future__ import annotations

import errno
import json
import os
import ssl
from typing import TYPE_CHECKING, Any

import httpx

from sidecar.command_error import NOT_READY, CommandError
from sidecar.errors import API_OFF

if TYPE_CHECKING:
    from pathlib import Path

    from sidecar.settings import Settings

_SECONDS = 3.0
_PASSING = (429, 502, 503, 504)
_DAMAGED = ("hole", "displaced", "unreadable")
_START = "Start it with the same SIDECAR_ settings."
_MAY_NOT = "Run this as the sidecar's user, or as one in the group of its socket."
_BY_SOCKET = "Run this with sudo, or set SIDECAR_UNIX_SOCKET to the sidecar's."
_NOT_OURS = f"What answers is no sidecar. {_START}"
_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}


class DaemonError(CommandError):
    """The daemon did not do what it was asked; the text says why."""

    exit_status = NOT_READY

    def __init__(
        self, text: str, *, may_pass: bool = False, code: str | None = None
    ) -> None:
        super().__init__(text)
        self.may_pass = may_pass  # without anybody's doing
        self.code = code  # of the problem that it answered


class DaemonClient(httpx.Client):
    """A client that can say where it asks."""

    where = ""


def client(
    settings: Settings, timeout_seconds: float = _SECONDS, *, is_probe: bool = False
) -> DaemonClient:
    """Give a client for the daemon of these settings; proxies are left alone.

    A probe sends no token: whoever took the port would get it. So it asks whoever
    listens: a certificate that was renewed or spoilt in its file says nothing of the
    daemon.
    """
    if settings.unix_socket is not None:
        return at_socket(settings.unix_socket, timeout_seconds)
    certificate = settings.tls_cert_file
    found = DaemonClient(
        base_url=address_of(settings),
        headers={} if is_probe else _authorization(settings),
        timeout=timeout_seconds,
        trust_env=False,
        verify=not is_probe and (_pinned(certificate) if certificate else True),
    )
    found.where = address_of(settings)
    return found


def address_of(settings: Settings) -> str:
    """Give the URL of the daemon of these settings, as the plugins take it."""
    if settings.unix_socket is not None:
        return f"unix://{settings.unix_socket}"
    host = _EVERYWHERE.get(settings.http_host[0], settings.http_host[0])
    if ":" in host:
        host = f"[{host}]"
    scheme = "http" if settings.tls_cert_file is None else "https"
    return f"{scheme}://{host}:{settings.http_port}"


def at_socket(path: Path, timeout_seconds: float) -> DaemonClient:
    """Give a client for the daemon at a Unix socket."""
    # There is no TLS: do without the authorities of the Web, which take long to load.
    nobody = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    found = DaemonClient(
        transport=httpx.HTTPTransport(uds=str(path), verify=nobody),
        base_url="http://localhost",
        timeout=timeout_seconds,
        trust_env=False,
    )
    found.where = f"unix://{path}"
    return found


def ask(http: httpx.Client, path: str, **query: Any) -> dict[str, Any]:
    """Get a JSON document; raise DaemonError with the daemon's own words."""
    return read(get(http, path, **query))


def document_of(http: httpx.Client, path: str) -> dict[str, Any]:
    """Get a JSON document whatever its status; raise DaemonError for none."""
    try:
        document: dict[str, Any] = get(http, path).json()
    except ValueError:
        raise DaemonError(_NOT_OURS) from None
    return document


def document_at(url: str) -> dict[str, Any]:
    """Get a JSON document of any server; raise DaemonError where there is none."""
    try:
        answer = httpx.get(url, timeout=_SECONDS, trust_env=False)
        document: dict[str, Any] = answer.raise_for_status().json()
    except (httpx.HTTPError, httpx.InvalidURL, ValueError):
        raise DaemonError(_NOT_OURS) from None
    return document


def get(http: httpx.Client, path: str, **query: Any) -> httpx.Response:
    """Get a response, whatever it says; raise DaemonError where none comes."""
    try:
        return http.get(path, params=query or None)
    except httpx.HTTPError as error:
        where = getattr(http, "where", "")
        why = _why(error)
        remedy = _MAY_NOT if why == _strerror(errno.EACCES) else _START
        raise DaemonError(
            f"The daemon at {where} does not answer: {why}. {remedy}"
        ) from None


def _why(error: BaseException) -> str:
    """Say why there is no answer: of the errors behind it the system's own word."""
    behind: BaseException | None = error
    while behind is not None:
        if isinstance(behind, ssl.SSLCertVerificationError):
            return "its certificate is not that of SIDECAR_TLS_CERT_FILE"
        if isinstance(behind, ssl.SSLError):
            return "the TLS handshake failed"
        if isinstance(behind, OSError) and (behind.errno or 0) > 0:
            return _strerror(behind.errno or 0)
        behind = behind.__cause__ or behind.__context__
    if isinstance(error, httpx.TimeoutException):
        return "it did not answer in time"
    return "the connection ended"


def _strerror(number: int) -> str:
    text = os.strerror(number)
    return text[:1].lower() + text[1:]


def read(answer: httpx.Response, content: bytes | None = None) -> dict[str, Any]:
    """Give the document of a response; raise DaemonError as `ask` does.

    Its content may be given in short, where not all of it is needed.
    """
    try:
        document: dict[str, Any] = json.loads(content or answer.content)
    except ValueError:
        raise DaemonError(_NOT_OURS) from None
    # A page that came slowly and failed says so in the place of the page.
    status = document.get("status", answer.status_code)
    if not answer.is_success or "code" in document:
        remedy = document.get("remedy")
        if document.get("code") == API_OFF.code:
            remedy = _BY_SOCKET
        raise DaemonError(
            f"{document.get('title')} {remedy}",
            may_pass=status in _PASSING and document.get("code") not in _DAMAGED,
            code=document.get("code"),
        )
    return document


def _authorization(settings: Settings) -> dict[str, str]:
    if settings.token_file is None:
        return {}
    try:
        token = settings.token_file.read_text("utf-8").strip()
    except (OSError, ValueError):
        raise DaemonError(
            "The file that SIDECAR_TOKEN_FILE names cannot be read."
        ) from None
    return {"Authorization": f"Bearer {token}"}


def _pinned(certificate: Path) -> ssl.SSLContext:
    """Trust just the daemon's own certificate, by whatever name it is reached."""
    try:
        context = ssl.create_default_context(cafile=str(certificate))
    except OSError:
        raise DaemonError(
            "The file that SIDECAR_TLS_CERT_FILE names cannot be read."
        ) from None
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context
