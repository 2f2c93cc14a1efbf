# SPDX-License-Identifier: Apache-2.0
"""Who may use the API on a listener: decided before anything of a request is read."""

from __future__ import annotations

import hmac
import traceback
from typing import TYPE_CHECKING, Literal

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect

from sidecar import errors
from sidecar.errors import Outcome, Problem
from sidecar.http.responses import problem_response
from sidecar.model.host_names import is_ours
from sidecar.telemetry.log import internal_error, log

if TYPE_CHECKING:
    from collections.abc import Callable
    from collections.abc import Set as AbstractSet
    from pathlib import Path

    from starlette.types import ASGIApp, Receive, Scope, Send

    from sidecar.errors import Cause

    RawHeaders = list[tuple[bytes, bytes]]
    """Lower-case names and values, as ASGI has them."""

Access = Literal["off", "token", "open"]

_API = "/v1/"
_FOR_PROBES = ("/health", "/metrics")
"""Asked for under whatever name a monitor has; nothing secret is there."""


class TokenFile:
    """A bearer token in a file, read again when the file changes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._version: tuple[int, int, int] | None = None
        self._token = b""

    def matches(self, authorization: str | None) -> bool:
        """Compare with an Authorization header, in constant time."""
        token = self._read()
        scheme, _, given = (authorization or "").partition(" ")
        is_same = hmac.compare_digest(given.strip().encode("latin-1"), token)
        return bool(token) and scheme.lower() == "bearer" and is_same

    def _read(self) -> bytes:
        try:
            status = self._path.stat()
            version = (status.st_mtime_ns, status.st_ino, status.st_size)
            if version != self._version:
                self._token = self._path.read_bytes().strip()
                self._version = version
        except OSError:
            log.error("token_unreadable", file=str(self._path))
            self._version, self._token = None, b""
        return self._token


class Guard:
    """Lets requests pass or responds itself; no error passes it."""

    def __init__(
        self,
        app: ASGIApp,
        access: Access,
        token: TokenFile | None = None,
        own_names: AbstractSet[str] | None = None,
        tell: Callable[[Cause], None] | None = None,
    ) -> None:
        """Guard an application; with own_names the Host header is checked too.

        `tell` is told why a request for the API may not pass.
        """
        self._app = app
        self._access = access
        self._token = token
        self._own_names = own_names
        self._tell = tell

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            self.check(scope["path"], scope["headers"], scope["method"])
            if scope["method"] == "HEAD":  # uvicorn leaves the body out
                scope = {**scope, "method": "GET"}
            await self._app(scope, receive, send)
        except Problem as problem:
            await problem_response(problem)(scope, receive, send)
        except ClientDisconnect:
            log.debug("client_left", path=scope["path"])
        except Exception as error:  # noqa: BLE001 - the last line of defence
            if _is_lost_response(error):
                log.debug("client_left", path=scope["path"])
                return
            # The application has responded; uvicorn would log all of its text.
            internal_error(error)

    def check(self, path: str, headers: RawHeaders, method: str) -> None:
        """Raise Problem for what may not pass: an event of it is not stored."""
        cause = self._refusal(path, headers)
        if cause is None:
            return
        if self._tell is not None and path.startswith(_API):
            self._tell(cause)
        raise Problem(cause, Outcome.NOT_STORED if method == "POST" else None)

    def admits(self, path: str, headers: RawHeaders) -> bool:
        """Tell whether this asks for the API, as it may be asked for."""
        return path.startswith(_API) and self._refusal(path, headers) is None

    def _refusal(self, path: str, headers: RawHeaders) -> Cause | None:
        if self._own_names is not None and not path.startswith(_FOR_PROBES):
            hosts = Headers(raw=headers).getlist("host")
            if len(hosts) != 1 or not is_ours(hosts[0], self._own_names):
                return errors.WRONG_HOST
        if not path.startswith(_API) or self._access == "open":
            return None
        if self._token is None:
            return errors.API_OFF
        if not self._token.matches(Headers(raw=headers).get("authorization")):
            return errors.UNAUTHORIZED
        return None


def _is_lost_response(error: Exception) -> bool:
    """Tell whether uvicorn found the connection closed when it wrote a response."""
    frames = traceback.walk_tb(error.__traceback__)
    modules = [frame.f_globals.get("__name__", "") for frame, _ in frames]
    return isinstance(error, RuntimeError) and any(
        module.startswith("uvicorn.") for module in modules
    )
