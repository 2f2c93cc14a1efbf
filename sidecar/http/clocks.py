# SPDX-License-Identifier: Apache-2.0
"""A clock for each phase of a connection, so that none stays half a request.

The phases: the first request, a head, a body with what follows it, its answer, the time
to the next request, which uvicorn watches.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from fcntl import ioctl
from termios import TIOCOUTQ
from typing import TYPE_CHECKING, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

if TYPE_CHECKING:
    from asyncio import TimerHandle

HEAD_SECONDS: Final = 20.0
"""How long a connection may take to the end of its first headers, and from the first
byte of a request to the end of its headers."""

BODY_SECONDS: Final = 30.0
"""How long a body may take to arrive, whatever its size."""

BODY_BYTES_A_SECOND: Final = 4096
"""For each of these that came of who is known, its body has a second more."""

READER_SECONDS: Final = 10.0
"""How long somebody may take nothing of an answer, which counts as held meanwhile: a
client that is paused asks again when it goes on."""

TAKE_SECONDS: Final = 30.0
"""How long an answer to somebody unknown may lie here, whatever is taken of it."""

PAGE_SECONDS: Final = 600.0
"""The same for who is known, whose link may be slow; the plugin waits no longer. So
long a body may take at most, too."""

STOPPING_SECONDS: Final = 1.0
"""How long a sidecar that stops waits for whoever does not take what it answered."""

STRANGERS_IDLE_SECONDS: Final = 75.0
"""Between two requests. Prometheus asks each 15 to 60 s."""

KEEP_ALIVE_SECONDS: Final = 3600
"""The same for who is known. Longer than a plugin is ever idle inside one pass: of two
sides that close at the same moment, the caller learns an ambiguous failure."""

_SLACK_SECONDS = 5.0  # the application's own clock tells the caller why


def body_seconds(came_bytes: int) -> float:
    """Say how long a body may take of which so much came."""
    return min(BODY_SECONDS + came_bytes / BODY_BYTES_A_SECOND, PAGE_SECONDS)


class ClockedProtocol(HttpToolsProtocol):
    """An HTTP connection that ends when somebody stalls in one of its phases."""

    _is_known = False  # the API was asked for as it may be
    _body_bytes = 0  # that came of a body which is kept
    _began_at = 0.0  # of a body, its clock
    _input_timer: TimerHandle | None = None
    _reader_timer: TimerHandle | None = None

    def shutdown(self) -> None:
        """Stop; whoever reads on does so now."""
        super().shutdown()
        if self.transport.get_write_buffer_size():
            self.loop.call_later(STOPPING_SECONDS, self._abort_unread)

    def _abort_unread(self) -> None:
        if self.transport.get_write_buffer_size():
            self.transport.abort()

    def _limit_head(self) -> None:
        self._end_input()
        self._input_timer = self.loop.call_later(HEAD_SECONDS, self.transport.abort)

    def _begin_body(self) -> None:
        self._began_at = self.loop.time()
        self._limit_body()

    def _limit_body(self) -> None:
        """Cut it when its time is over, which grows with what came of it."""
        left_seconds = self._began_at + _SLACK_SECONDS - self.loop.time()
        left_seconds += body_seconds(self._body_bytes)
        if left_seconds <= 0:
            self.transport.abort()
            return
        self._end_input()
        self._input_timer = self.loop.call_later(left_seconds, self._limit_body)

    def _end_input(self) -> None:
        if self._input_timer is not None:
            self._input_timer.cancel()
            self._input_timer = None

    def pause_writing(self) -> None:
        """Look whether the reader goes on; one who is known may be slow."""
        super().pause_writing()
        seconds = PAGE_SECONDS if self._is_known else TAKE_SECONDS
        self._watch_reader(self.loop.time() + seconds, self._unread_bytes())

    def resume_writing(self) -> None:
        """Stop looking."""
        self._end_reader()
        super().resume_writing()

    def _watch_reader(self, ends_at: float, unread_bytes: int) -> None:
        self._reader_timer = self.loop.call_later(
            READER_SECONDS, self._check_reader, ends_at, unread_bytes
        )

    def _check_reader(self, ends_at: float, unread_before: int) -> None:
        unread_bytes = self._unread_bytes()
        if self.loop.time() >= ends_at or unread_bytes >= unread_before:
            self.transport.abort()
        else:
            self._watch_reader(ends_at, unread_bytes)

    def _unread_bytes(self) -> int:
        """Count what the other side has not taken, in our buffer and in the kernel's.

        A slow link empties the kernel's long before ours gets smaller.
        """
        queued = bytearray(4)
        with suppress(OSError):
            ioctl(self.transport.get_extra_info("socket").fileno(), TIOCOUTQ, queued)
        kernels = int.from_bytes(queued, sys.byteorder)
        return self.transport.get_write_buffer_size() + kernels

    def _end_reader(self) -> None:
        if self._reader_timer is not None:
            self._reader_timer.cancel()
            self._reader_timer = None
