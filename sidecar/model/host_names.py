# SPDX-License-Identifier: Apache-2.0
"""Whether a Host header may be ours: the defence against DNS rebinding. Pure.

A browser on this machine can be led here under a name that an attacker owns, past its
same-origin policy. Single labels and names in .local can be claimed by neighbours, too:
so ours are addresses, the machine's own names, and those that a setting allows.
"""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

_NAME = re.compile(r"[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*\.?", re.ASCII)
_PORT = re.compile(r":[0-9]{1,5}\Z", re.ASCII)


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
