# SPDX-License-Identifier: Apache-2.0
"""What a NATS server says before it ends a connection, and why none was made. Pure.

Each has a cause, and a sentence of ours for it: what a server or a library says may
hold anything, so none of its text goes on.
"""

from __future__ import annotations

import errno
import socket
import ssl
from typing import TYPE_CHECKING, Final, NamedTuple

from sidecar import errors

if TYPE_CHECKING:
    from sidecar.errors import Cause


class Explained(NamedTuple):
    """What keeps us from NATS, and a sentence's end that goes after the server's URL.

    Without a cause nothing is known that was not known before.
    """

    cause: Cause | None
    sentence: str


_ERRS: Final = {
    "maximum payload violation": (errors.EVENT_TOO_LARGE, "an event is over its limit"),
    "maximum connections exceeded": (
        errors.NATS_LIMIT,
        "its max_connections are reached, and we need two",
    ),
    "maximum account active connections exceeded": (
        errors.NATS_LIMIT,
        "the connections of the account are at their limit, and we need two",
    ),
    "maximum subscriptions exceeded": (
        errors.NATS_LIMIT,
        "its max_subscriptions are reached, and we need one on each connection",
    ),
    "maximum control line exceeded": (
        errors.NATS_LIMIT,
        "its max_control_line is too small, and we need 512 bytes",
    ),
    "connection throttling is active": (
        errors.NATS_LIMIT,
        "it takes no more TLS connections for the moment",
    ),
    "authorization violation": (errors.NATS_REFUSED, "it refused the login"),
    "authentication timeout": (errors.NATS_REFUSED, "the login took it too long"),
    "user authentication expired": (errors.NATS_REFUSED, "the user's JWT has expired"),
    "account authentication expired": (
        errors.NATS_REFUSED,
        "the account's JWT has expired",
    ),
    "authentication expired": (errors.NATS_REFUSED, "the login has expired"),
    "user authentication revoked": (errors.NATS_REFUSED, "the user was revoked"),
    "account authentication revoked": (errors.NATS_REFUSED, "the account was revoked"),
    "failed account registration": (errors.NATS_REFUSED, "it refused the account"),
    "proxy": (errors.NATS_REFUSED, "it wants logins through its proxy alone"),
    "permissions violation": (errors.NATS_PERMISSION, "a permission is missing"),
    "secure connection - tls required": (errors.NATS_TLS, "it requires TLS"),
    "attempted to connect to": (
        errors.NATS_DOWN,
        "this port is not the one for clients",
    ),
    "stale connection": (errors.NATS_DOWN, "it took the connection for dead"),
    "slow consumer": (errors.NATS_DOWN, "we took too slowly what it sent"),
    "server shutdown": (errors.NATS_DOWN, "it is stopping"),
    "cluster": (errors.NATS_DOWN, "this port is not the one for clients"),
    "empty response": (errors.NATS_DOWN, "something else than NATS answers there"),
    "info message": (errors.NATS_DOWN, "something else than NATS answers there"),
    "protocol error": (errors.NATS_DOWN, "something else than NATS answers there"),
    "unexpected eof": (None, "it ended the connection"),
    "no servers available": (None, ""),
}
"""The texts of -ERR as nats-server 2.11 to 2.15 writes them (server/client.go, auth.go,
parser.go, server.go, errors.go), by how they begin, in lower case; then nats-py's own.

Each ends the connection, or is made to, so whatever is under way on it is in doubt. But
"maximum payload violation" is definite of the one copy under way, if there is one: it
is said as its size is read, in processPub and processHeaderPub (server/client.go),
before anything of it goes on to JetStream.
"""

_UNTRUSTED = (18, 19, 20, 21)
_OTHER_NAME = (62, 64)
_ENDED = {10: "its certificate has expired", 9: "its certificate is not valid yet"}
"""Verify codes of OpenSSL's x509_vfy.h."""

_OF_SYSTEM: Final = {
    errno.ECONNREFUSED: "the connection was refused: nothing listens there",
    errno.EHOSTUNREACH: "there is no way to this host",
    errno.ENETUNREACH: "there is no way to this network",
    errno.ETIMEDOUT: "it did not answer in time",
    errno.ECONNRESET: "it ended the connection",
    errno.EPIPE: "it ended the connection",
    errno.EMFILE: "we have no file descriptor left",
    errno.ENFILE: "this machine has no file descriptor left",
}


def explain(error: BaseException) -> Explained:
    """Say what an error of a connection means."""
    if isinstance(error, ssl.SSLError):
        return Explained(errors.NATS_TLS, _of_tls(error))
    if isinstance(error, errors.Problem):
        is_tls = error.cause is errors.NATS_TLS
        return Explained(error.cause, "it offers no TLS" if is_tls else "")
    if isinstance(error, socket.gaierror):
        is_silent = error.errno == socket.EAI_AGAIN
        what = "no name server says who that is" if is_silent else "the name is unknown"
        return Explained(None, what)
    if isinstance(error, TimeoutError):
        return Explained(None, "it did not answer in time")
    if isinstance(error, (ConnectionError, EOFError)):
        number = getattr(error, "errno", None) or errno.ECONNRESET
        return Explained(None, _OF_SYSTEM.get(number, "it ended the connection"))
    if isinstance(error, OSError):
        return Explained(None, _OF_SYSTEM.get(error.errno or 0, "it cannot be reached"))
    return _of_text(str(error))


def _of_text(text: str) -> Explained:
    said = text.lower().removeprefix("nats: ").removeprefix("'")
    for start, explained in _ERRS.items():
        if said.startswith(start):
            return Explained(*explained)
    if "authorization" in said or "authentication" in said:
        return Explained(errors.NATS_REFUSED, "it refused the login")
    return Explained(None, "it ended the connection")


def _of_tls(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        code = getattr(error, "verify_code", 0)
        if code in _OTHER_NAME:
            return "its certificate is not for this name"
        if code in _UNTRUSTED:
            return "its certificate is of an authority that we do not trust"
        return _ENDED.get(code, "its certificate is not valid")
    reason = str(getattr(error, "reason", ""))
    if "ALERT" in reason and ("CERT" in reason or "CA" in reason):
        return "it does not take our certificate"
    if "WRONG_VERSION_NUMBER" in reason or "RECORD_LAYER" in reason:
        return "it does not talk TLS"
    return "the TLS handshake failed"
