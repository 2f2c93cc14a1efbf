# SPDX-License-Identifier: Apache-2.0
"""The names of this machine, as its name servers know them."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress


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
