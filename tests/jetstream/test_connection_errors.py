# SPDX-License-Identifier: Apache-2.0
"""Each way in which a connection to NATS ends or is not made, and its sentence."""

from __future__ import annotations

import errno
import socket
import ssl

import pytest
from nats.errors import Error, NoServersError, StaleConnectionError, UnexpectedEOF

from sidecar import errors
from sidecar.errors import Cause, Problem
from sidecar.jetstream.connection_errors import explain


@pytest.mark.parametrize(
    ("said", "cause", "words"),
    [
        ("'Maximum Payload Violation'", errors.EVENT_TOO_LARGE, "limit"),
        ("'maximum connections exceeded'", errors.NATS_LIMIT, "max_connections"),
        (
            "'maximum account active connections exceeded'",
            errors.NATS_LIMIT,
            "connections of the account",
        ),
        ("'maximum subscriptions exceeded'", errors.NATS_LIMIT, "max_subscriptions"),
        ("'maximum control line exceeded'", errors.NATS_LIMIT, "max_control_line"),
        (
            "'Connection throttling is active. Please try again later.'",
            errors.NATS_LIMIT,
            "for the moment",
        ),
        ("'Authorization Violation'", errors.NATS_REFUSED, "refused the login"),
        ("'Authentication Timeout'", errors.NATS_REFUSED, "too long"),
        ("'User Authentication Expired'", errors.NATS_REFUSED, "user's JWT"),
        ("'Account Authentication Expired'", errors.NATS_REFUSED, "account's JWT"),
        ("'User Authentication Revoked'", errors.NATS_REFUSED, "was revoked"),
        ("'authentication error'", errors.NATS_REFUSED, "refused the login"),
        ("'Failed Account Registration'", errors.NATS_REFUSED, "account"),
        ("'proxy connection required'", errors.NATS_REFUSED, "proxy"),
        ("'Secure Connection - TLS Required'", errors.NATS_TLS, "requires TLS"),
        ("'attempted to connect to route port'", errors.NATS_DOWN, "this port"),
        ("'attempted to connect to leaf node port'", errors.NATS_DOWN, "this port"),
        ("'Slow Consumer'", errors.NATS_DOWN, "too slowly"),
        ("'Unknown Protocol Operation'", None, "it closed"),
        ("'Invalid Client Protocol'", None, "it closed"),
        ("'Server Shutdown'", errors.NATS_DOWN, "stopping"),
        ("'pa55word \x1b[31m of somebody'", None, "it closed"),
        (
            "empty response from server when expecting INFO message",
            errors.NATS_DOWN,
            "not a NATS server",
        ),
        ("info message, json parse error", errors.NATS_DOWN, "not a NATS server"),
    ],
)
def test_what_a_server_says_has_a_cause_and_a_sentence_of_ours(
    said: str, cause: Cause | None, words: str
) -> None:
    explained = explain(Error(f"nats: {said}"))
    assert explained.cause is cause
    assert words in explained.sentence
    assert "pa55" not in explained.sentence


def unverified(code: int) -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.verify_code = code
    return error


def of_tls(reason: str) -> ssl.SSLError:
    error = ssl.SSLError(1, reason)
    error.reason = reason
    return error


@pytest.mark.parametrize(
    ("error", "cause", "words"),
    [
        (ConnectionRefusedError(errno.ECONNREFUSED, ""), None, "refused"),
        (ConnectionResetError(errno.ECONNRESET, ""), None, "closed the connection"),
        (ConnectionResetError("Connection lost"), None, "closed the connection"),
        (BrokenPipeError(errno.EPIPE, ""), None, "closed the connection"),
        (OSError(errno.EHOSTUNREACH, ""), None, "no route to this host"),
        (OSError(errno.ENETUNREACH, ""), None, "no route to this network"),
        (OSError(errno.EMFILE, ""), None, "file descriptor"),
        (OSError(errno.EIO, ""), None, "cannot be reached"),
        (TimeoutError(), None, "in time"),
        (EOFError(), None, "closed the connection"),
        (UnexpectedEOF(), None, "closed the connection"),
        (StaleConnectionError(), errors.NATS_DOWN, "dead"),
        (NoServersError(), None, ""),
        (socket.gaierror(socket.EAI_NONAME, ""), None, "the name is unknown"),
        (socket.gaierror(socket.EAI_AGAIN, ""), None, "no name server"),
        (unverified(62), errors.NATS_TLS, "not for this name"),
        (unverified(64), errors.NATS_TLS, "not for this name"),
        (unverified(18), errors.NATS_TLS, "untrusted CA"),
        (unverified(20), errors.NATS_TLS, "untrusted CA"),
        (unverified(10), errors.NATS_TLS, "expired"),
        (unverified(9), errors.NATS_TLS, "not valid yet"),
        (unverified(24), errors.NATS_TLS, "not valid"),
        (of_tls("WRONG_VERSION_NUMBER"), errors.NATS_TLS, "does not speak TLS"),
        (of_tls("RECORD_LAYER_FAILURE"), errors.NATS_TLS, "does not speak TLS"),
        (
            of_tls("TLSV13_ALERT_CERTIFICATE_REQUIRED"),
            errors.NATS_TLS,
            "rejects the client certificate",
        ),
        (of_tls("TLSV1_ALERT_UNKNOWN_CA"), errors.NATS_TLS, "client certificate"),
        (ssl.SSLError(1, ""), errors.NATS_TLS, "handshake"),
        (Problem(errors.NATS_TLS), errors.NATS_TLS, "offers no TLS"),
        (Problem(errors.CREDENTIALS_UNREADABLE), errors.CREDENTIALS_UNREADABLE, ""),
    ],
    ids=lambda value: str(value)[:40],
)
def test_why_no_connection_was_made_has_a_cause_and_a_sentence(
    error: Exception, cause: Cause | None, words: str
) -> None:
    explained = explain(error)
    assert explained.cause is cause
    assert words in explained.sentence
    assert bool(explained.sentence) is bool(words)
