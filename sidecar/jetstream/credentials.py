# SPDX-License-Identifier: Apache-2.0
"""Who we are at NATS: read from files at each login, so that a rotation needs nothing.

Everything is checked before it is given to nats-py, whose own errors quote it.
"""

from __future__ import annotations

import re
import ssl
from collections import UserString
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import nkeys

from sidecar import errors
from sidecar.errors import Problem

if TYPE_CHECKING:
    from pathlib import Path

CREDENTIALS = re.compile(
    r"-----BEGIN NATS USER JWT-----\s+(?P<jwt>\S+)\s.*"
    r"-----BEGIN USER NKEY SEED-----\s+(?P<seed>\S+)",
    re.DOTALL,
)
_AS_NATS_PY_READS = """\
-----BEGIN NATS USER JWT-----
{jwt}
------END NATS USER JWT------
-----BEGIN USER NKEY SEED-----
{seed}
------END USER NKEY SEED------
"""
"""It takes the lines after two of these as they are: with their carriage returns and
indentation. Other systems' editors, and YAML, write such."""


@dataclass(frozen=True)
class Tls:
    """Files for TLS to the NATS server; without a CA file the system's roots count."""

    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    handshake_first: bool = False


@dataclass
class NatsServer:
    """Where NATS is and who we are there. Secrets are files, read at each login.

    An embedded server may come back at another place.
    """

    urls: tuple[str, ...]
    user: str | None = None
    password_file: Path | None = None
    token_file: Path | None = None
    creds_file: Path | None = None
    nkey_seed_file: Path | None = None
    tls: Tls | None = None
    inbox_prefix: str = "_INBOX_hermes_both"


def read_login(server: NatsServer) -> dict[str, Any]:
    """Read the files of the login and name them as nats-py's connect() does.

    Raises Problem for a file that is missing or holds something else.
    """
    login: dict[str, Any] = {}
    if server.creds_file is not None:
        credentials = CREDENTIALS.search(_read(server.creds_file))
        if credentials is None:
            raise _unreadable(server.creds_file)
        _check_seed(credentials["seed"], server.creds_file)
        login["user_credentials"] = UserString(
            _AS_NATS_PY_READS.format_map(credentials.groupdict())
        )
    if server.password_file is not None:
        login["user"] = server.user
        login["password"] = _read_line(server.password_file)
    if server.token_file is not None:
        login["token"] = _read_line(server.token_file)
    if server.nkey_seed_file is not None:
        login["nkeys_seed_str"] = _check_seed(
            _read_line(server.nkey_seed_file), server.nkey_seed_file
        )
    if server.tls is not None:
        login["tls"] = _tls_context(server.tls)
        login["tls_handshake_first"] = server.tls.handshake_first
    return login


def _check_seed(seed: str, file: Path) -> str:
    try:
        nkeys.from_seed(bytearray(seed.encode())).wipe()
    except Exception:  # noqa: BLE001 - a file may hold anything
        raise _unreadable(file) from None
    return seed


def _tls_context(tls: Tls) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=tls.ca_file)
        if tls.cert_file is not None:
            context.load_cert_chain(tls.cert_file, tls.key_file)
    except OSError:  # ssl.SSLError is one
        raise Problem(errors.NATS_TLS) from None
    return context


def _read_line(file: Path) -> str:
    """Read a secret of one line."""
    text = _read(file)
    if not text.isprintable():  # a second line, or what no login has
        raise _unreadable(file)
    return text


def _read(file: Path) -> str:
    try:
        text = file.read_text("utf-8-sig").strip()
    except (OSError, ValueError):
        raise _unreadable(file) from None
    if not text:
        raise _unreadable(file)
    return text


def _unreadable(file: Path) -> Problem:
    return Problem(errors.CREDENTIALS_UNREADABLE, file=str(file))
