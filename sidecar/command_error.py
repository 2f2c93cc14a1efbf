# SPDX-License-Identifier: Apache-2.0
"""The error message of a command that fails, and its exit status."""

from __future__ import annotations

from typing import ClassVar, Final

OK: Final = 0
NOT_READY: Final = 1
BAD_SETTINGS: Final = 2
CANNOT_LISTEN: Final = 3
NO_NATS: Final = 4
NO_FIT_STREAM: Final = 5
NO_EMBEDDED_NATS: Final = 6
NOT_INSTALLED: Final = 7
OTHER_LIBRARY: Final = 8
NO_EVENT: Final = 9
NO_OUTPUT: Final = 10


class CommandError(Exception):
    """A sentence for the user: what is wrong and what to do; never a traceback."""

    exit_status: ClassVar[int]


def printable(text: str) -> str:
    """Escape what a terminal or browser would interpret: escape codes, line breaks.

    Names of servers and subjects, and keys, may have been chosen by an attacker.
    """
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode()
        for each in text
    )
