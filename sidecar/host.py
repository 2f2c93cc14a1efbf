# SPDX-License-Identifier: Apache-2.0
"""Whether a Host header may be ours: the defence against DNS rebinding. Pure.

A browser on this machine can be led here under a name that an attacker owns, past its
same-origin policy. Single labels and names in .local can be claimed by neighbours, too:
so ours are addresses, the machine's own names, and those that a setting allows.
"""

from __future__ import annotations

import ipaddress
import re
import socket
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

_NAME = re.compile(r"[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*\.?", re.ASCII)
_PORT = re.compile(r":[0-9]{1,5}\Z", re.ASCII)


def own_names(*others: str) -> set[str]:
    """Give the names of this machine, and others that it is told to have.

    Its full name is added once a name server has said it, which may take a minute.
    """
    names = {_plain(name) for name in (*others, socket.gethostname())}

    def learn() -> None:
        with suppress(OSError, UnicodeError):
            names.add(_plain(socket.getfqdn()))

    threading.Thread(target=learn, daemon=True, name="own name").start()
    return names


def _plain(name: str) -> str:
    return name.lower().rstrip(".")


def is_ours(host: str, own: AbstractSet[str]) -> bool:
    """Tell whether a Host header cannot be an attacker's name."""
    name = _PORT.sub("", host.strip().lower())
    if _is_address(name.removeprefix("[").removesuffix("]")):
        return True
    if not _NAME.fullmatch(name):
        return False
    name = name.rstrip(".")
    return name in own or f".{name}".endswith(".localhost")  # RFC 6761


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def is_ipv4(text: str) -> bool:
    """Tell whether this is an address of IPv4."""
    try:
        ipaddress.IPv4Address(text)
    except ValueError:
        return False
    return True


def may_be_named(text: str) -> bool:
    """Tell whether this is a name or an address, without a port."""
    return _NAME.fullmatch(text.lower()) is not None or _is_address(text)
