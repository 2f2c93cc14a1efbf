# SPDX-License-Identifier: Apache-2.0
"""What a NATS server says before it ends a connection, and why none was made.

Each has a cause, and a sentence of ours for it: what a server or a library says may
hold anything, so none of its text goes on.
"""

from __future__ import annotations

import errno
import socket
import ssl
from typing import TYPE_CHECKING, Final, NamedTuple

from sidecar import errors
from sidecar.telemetry.log import internal_error

if TYPE_CHECKING:
    from sidecar.errors import Cause


class Explained(NamedTuple):
    """What keeps us from NATS, and a sentence's end that goes after the server's URL.

    Without a cause nothing is known that was not known before.
    """

    cause: Cause | None
    sentence: str


_ERRS: Final = {
    "maximum payload violation": (
        errors.EVENT_TOO_LARGE,
        "an event is larger than its limit",
    ),
    "maximum connections exceeded": (
        errors.NATS_LIMIT,
        "its max_connections limit is reached; a sidecar needs two",
    ),
    "maximum account active connections exceeded": (
        errors.NATS_LIMIT,
        "the connections of the account are at their limit; a sidecar needs two",
    ),
    "maximum subscriptions exceeded": (
        errors.NATS_LIMIT,
        "its max_subscriptions limit is reached; each connection needs one",
    ),
    "maximum control line exceeded": (
        errors.NATS_LIMIT,
        "its max_control_line is too small; a sidecar needs 512 bytes",
    ),
    "connection throttling is active": (
        errors.NATS_LIMIT,
        "it accepts no more TLS connections for the moment",
    ),
    "authorization violation": (errors.NATS_REFUSED, "it refused the login"),
    "authentication timeout": (errors.NATS_REFUSED, "the login took too long"),
    "user authentication expired": (errors.NATS_REFUSED, "the user's JWT has expired"),
    "account authentication expired": (
        errors.NATS_REFUSED,
        "the account's JWT has expired",
    ),
    "authentication expired": (errors.NATS_REFUSED, "the login has expired"),
    "user authentication revoked": (errors.NATS_REFUSED, "the user was revoked"),
    "account authentication revoked": (errors.NATS_REFUSED, "the account was revoked"),
    "failed account registration": (errors.NATS_REFUSED, "it refused the account"),
    "proxy": (errors.NATS_REFUSED, "it accepts logins only through its proxy"),
    "permissions violation": (errors.NATS_PERMISSION, "a permission is missing"),
    "secure connection - tls required": (errors.NATS_TLS, "it requires TLS"),
    "attempted to connect to": (
        errors.NATS_DOWN,
        "this port is not the one for clients",
    ),
    "stale connection": (errors.NATS_DOWN, "it considered the connection dead"),
    "slow consumer": (errors.NATS_DOWN, "the sidecar read too slowly"),
    "server shutdown": (errors.NATS_DOWN, "it is stopping"),
    "cluster": (errors.NATS_DOWN, "this port is not the one for clients"),
    "empty response": (errors.NATS_DOWN, "this is not a NATS server"),
    "info message": (errors.NATS_DOWN, "this is not a NATS server"),
    "protocol error": (errors.NATS_DOWN, "this is not a NATS server"),
    "unexpected eof": (None, "it closed the connection"),
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
    errno.EHOSTUNREACH: "there is no route to this host",
    errno.ENETUNREACH: "there is no route to this network",
    errno.ETIMEDOUT: "it did not answer in time",
    errno.ECONNRESET: "it closed the connection",
    errno.EPIPE: "it closed the connection",
    errno.EMFILE: "the sidecar has no file descriptor left",
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
        what = (
            "no name server resolves this name" if is_silent else "the name is unknown"
        )
        return Explained(None, what)
    if isinstance(error, TimeoutError):
        return Explained(None, "it did not answer in time")
    if isinstance(error, (ConnectionError, EOFError)):
        number = getattr(error, "errno", None) or errno.ECONNRESET
        return Explained(None, _OF_SYSTEM.get(number, "it closed the connection"))
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
    return Explained(None, "it closed the connection")


def _of_tls(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        code = getattr(error, "verify_code", 0)
        if code in _OTHER_NAME:
            return "its certificate is not for this name"
        if code in _UNTRUSTED:
            return "its certificate is signed by an untrusted CA"
        return _ENDED.get(code, "its certificate is not valid")
    reason = str(getattr(error, "reason", ""))
    if "ALERT" in reason and ("CERT" in reason or "CA" in reason):
        return "it rejects the client certificate"
    if "WRONG_VERSION_NUMBER" in reason or "RECORD_LAYER" in reason:
        return "it does not speak TLS"
    return "the TLS handshake failed"


def unforeseen(error: Exception) -> errors.Problem:
    """Log once what no server of ours says; it counts as a lost connection."""
    internal_error(error)
    return errors.Problem(errors.INTERNAL)
