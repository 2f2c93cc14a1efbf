# SPDX-License-Identifier: Apache-2.0
"""What commands print: a full disk is a sentence, and nobody who reads on is none."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

from sidecar.command_error import NO_OUTPUT, CommandError

if TYPE_CHECKING:
    from collections.abc import Iterator


class OutputError(CommandError):
    """What a command printed is lost; the text says why."""

    exit_status = NO_OUTPUT


class Output:
    """stdout, whose full disk is a sentence; whoever does not read on is none."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def write(self, text: str) -> int:
        """Write, or raise OutputError."""
        with self._explaining():
            return self._out.write(text)

    def flush(self) -> None:
        """Write what is buffered, or raise OutputError."""
        with self._explaining():
            self._out.flush()

    def isatty(self) -> bool:
        """Tell whether it is a terminal."""
        return self._out.isatty()

    @contextmanager
    def _explaining(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:
            raise
        except OSError as error:
            raise OutputError(
                f"The output cannot be written: {error.strerror}."
            ) from None


def give_up(out: TextIO, status: int) -> int:
    """Leave what is buffered, which Python would write once more at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), out.fileno())
    return status
