# SPDX-License-Identifier: Apache-2.0
"""Takes a listener's connections, and bounds those of whom nothing is known.

A stranger is a connection on which the API was not yet asked for as it may be. Of them
the oldest gives way to a newcomer: so whoever opens thousands keeps no probe out. One
counts from its first packet on, before any TLS handshake.

Over TLS nobody is opened who has sent nothing, and until its first request one gives
way only to others in that phase: a probe on a busy machine had not answered our part of
the handshake after 0.2 s, and was cut. Those who ask cost most and need least: so they
are few.
"""

from __future__ import annotations

import asyncio
import select
import socket
from collections import OrderedDict
from contextlib import suppress
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from sidecar.http.protocol import BoundedProtocol

MAX_CONNECTIONS: Final = 2_000
"""On one listener; with only known ones there, a further one is closed at once."""

MAX_STRANGERS: Final = 500
"""On one listener. Monitors, browsers and clients in their first moment need few."""

MAX_TLS_STRANGERS: Final = 50
"""The same over TLS, from the first byte of a request on: each has buffers of up to 300
KiB, and what it sends takes time from others' handshakes."""

MAX_HANDSHAKES: Final = 350
"""On one listener, from the first byte of a TLS handshake to that of a request. Each
takes up to 350 KiB; where 1,000 begin in a second it has a third of a second."""

HANDSHAKE_SECONDS: Final = 10.0
"""How long a TLS handshake may take, its first byte before it, its goodbye after."""

_TAKEN_AT_ONCE = 512  # what waits in the kernel waits behind everybody
_OPENED_AT_ONCE = 128  # so few that one is read before 500 more are opened
_HANDSHAKES_AT_ONCE = 6  # each takes a millisecond, and a probe several turns
_ITERATIONS_TO_READ = 3  # of the event loop, from its opening
_NEWEST_ONE_IN = 2
_PAUSE_SECONDS = 0.1
_SERVED_AT_ONCE = 1  # a page or the metrics take some milliseconds


class Turns:
    """Lets strangers' requests begin, one each time the loop goes round.

    Those of probes wait for no turn (sidecar.http.probes).

    The first one of a connection comes before all others, and the newest before older
    ones: a monitor's, whatever a crowd asks for.
    """

    def __init__(self) -> None:
        self._first: dict[asyncio.Future[None], None] = {}
        self._later: dict[asyncio.Future[None], None] = {}
        self._left = _SERVED_AT_ONCE
        self._next: asyncio.Handle | None = None

    def ask(self, *, is_first: bool) -> asyncio.Future[None]:
        """Give what is done when its turn is there; who leaves does it before."""
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[None] = loop.create_future()
        if self._next is None:
            self._next = loop.call_soon(self._go_round)
        if self._left > 0:
            self._left -= 1
            turn.set_result(None)
            return turn
        waiting = self._first if is_first else self._later
        waiting[turn] = None
        turn.add_done_callback(lambda done: waiting.pop(done, None))
        return turn

    def _go_round(self) -> None:
        self._next, self._left = None, _SERVED_AT_ONCE
        while self._left > 0 and (self._first or self._later):
            if self._first:
                turn, _ = self._first.popitem()
            else:
                turn = next(iter(self._later))
                del self._later[turn]
            if not turn.done():
                turn.set_result(None)
                self._left -= 1
        if self._left < _SERVED_AT_ONCE:
            self._next = asyncio.get_running_loop().call_soon(self._go_round)


class Arrival:
    """One connection, from the moment it was taken."""

    protocol: BoundedProtocol | None = None
    _clock: asyncio.TimerHandle | None = None  # while it is silent

    def __init__(self, arrivals: Arrivals, taken: socket.socket) -> None:
        self.turns = arrivals.turns
        self._arrivals = arrivals
        self._socket = taken

    def has_begun(self) -> None:
        """Count it among those who asked, no more among TLS handshakes."""
        if self._arrivals.in_handshake.pop(self, self) is None:
            self._arrivals.count_stranger(self)

    def is_known(self) -> None:
        """Count it as a stranger no more."""
        self._arrivals.strangers.pop(self, None)

    def has_left(self) -> None:
        """Count it no more, and let its protocol go."""
        self.protocol = None
        self.stop_listening()
        for group in self._arrivals.groups:
            group.pop(self, None)

    def listen(self) -> None:
        """Wait for its first byte, but not for ever."""
        loop = asyncio.get_running_loop()
        self._clock = loop.call_later(HANDSHAKE_SECONDS, self.end)
        loop.add_reader(self._socket, self._arrivals.hear, self, self._socket)

    def stop_listening(self) -> None:
        """Wait for its first byte no more."""
        if self._clock is not None:
            self._clock.cancel()
            self._clock = None
            asyncio.get_running_loop().remove_reader(self._socket)

    def end(self) -> None:
        """Cut it, whatever it is doing."""
        arrivals, protocol = self._arrivals, self.protocol
        is_opened = self not in arrivals.silent and self not in arrivals.unopened
        self.has_left()
        if not is_opened:
            self._socket.close()
        elif protocol is not None and protocol.transport is not None:
            protocol.transport.abort()
        else:  # in its handshake
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)


class Arrivals:
    """Those that are there, the oldest first.

    All that come are taken at once. In a crowd most of them wait to be opened, which
    costs nothing. They are opened in the order in which they came, so that none waits
    for ever; but each second is the newest, who need not wait for a crowd before him.
    """

    def __init__(
        self,
        listener: socket.socket,
        make_protocol: Callable[[], BoundedProtocol],
        tls: ssl.SSLContext | None,
    ) -> None:
        self.all: dict[Arrival, None] = {}
        self.silent: dict[Arrival, None] = {}
        self.unopened: OrderedDict[Arrival, socket.socket] = OrderedDict()
        self.in_handshake: dict[Arrival, None] = {}
        self.strangers: dict[Arrival, None] = {}
        self.groups: tuple[dict[Arrival, Any], ...] = (
            self.all,
            self.silent,
            self.unopened,
            self.in_handshake,
            self.strangers,
        )
        self.turns = Turns()
        self._listener = listener
        self._make_protocol = make_protocol
        self._tls = tls
        self._max_strangers = MAX_STRANGERS if tls is None else MAX_TLS_STRANGERS
        self._at_once = _OPENED_AT_ONCE if tls is None else _HANDSHAKES_AT_ONCE
        self._opening: set[asyncio.Task[None]] = set()
        self._next: asyncio.Handle | None = None
        self._pause: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Take connections from now on."""
        self._listener.setblocking(False)
        asyncio.get_running_loop().add_reader(self._listener, self._take)

    def listen_on(self, listener: socket.socket) -> None:
        """Take connections from another socket from now on; the old one is closed."""
        self._stop_listening()
        self._listener = listener
        self.start()

    def _stop_listening(self) -> None:
        if self._pause is not None:
            self._pause.cancel()
        asyncio.get_running_loop().remove_reader(self._listener)

    def stop(self) -> None:
        """Take no more connections, and end those that are not open yet."""
        self._stop_listening()
        for arrival in [*self.silent, *self.unopened]:
            arrival.end()
        for task in self._opening:
            task.cancel()

    def _take(self) -> None:
        self._take_all()
        self._open_soon()

    def _open_soon(self) -> None:
        if self._next is None:
            self._next = asyncio.get_running_loop().call_soon(self._open_some)

    def _take_all(self) -> None:
        for _ in range(_TAKEN_AT_ONCE):
            try:
                taken, _ = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionError):
                return
            except OSError:  # no more files
                self._make_room()
                loop = asyncio.get_running_loop()
                loop.remove_reader(self._listener)
                self._pause = loop.call_later(_PAUSE_SECONDS, self.start)
                return
            self._add(taken)

    def _add(self, taken: socket.socket) -> None:
        taken.setblocking(False)
        arrival = Arrival(self, taken)
        self.all[arrival] = None
        if self._tls is None:
            self.unopened[arrival] = taken
        else:
            self.silent[arrival] = None
            arrival.listen()
        if len(self.all) > MAX_CONNECTIONS:
            self._make_room()

    def hear(self, arrival: Arrival, taken: socket.socket) -> None:
        """Open one that has sent something, or ended, when its turn comes."""
        arrival.stop_listening()
        del self.silent[arrival]
        self.unopened[arrival] = taken
        self._open_soon()

    def _open_some(self) -> None:
        self._next = None
        left = self._at_once
        is_crowd = len(self.unopened) > left
        while left > 0 and self.unopened:
            arrival, taken = self.unopened.popitem(last=left % _NEWEST_ONE_IN == 0)
            if is_crowd and _has_hung_up(taken):
                taken.close()
                arrival.has_left()
                continue
            left -= 1
            if self._tls is None:
                self.count_stranger(arrival)
            else:
                _count(arrival, self.in_handshake, MAX_HANDSHAKES)
            task = asyncio.create_task(self._open(arrival, taken))
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)
        if self.unopened:
            self._next = asyncio.get_running_loop().call_soon(self._open_some)

    def count_stranger(self, arrival: Arrival) -> None:
        """Count one more; the oldest gives way."""
        _count(arrival, self.strangers, self._max_strangers)

    def _make_room(self) -> None:
        """End the oldest of a group, or whoever waits longest if all have just come."""
        just_come = _ITERATIONS_TO_READ * self._at_once
        groups = self.silent, self.strangers, self.in_handshake
        old = [group for group in groups if len(group) > just_come]
        for arrival in chain(*old, self.unopened, *groups):
            arrival.end()
            return

    async def _open(self, arrival: Arrival, taken: socket.socket) -> None:
        def make_protocol() -> BoundedProtocol:
            protocol = arrival.protocol = self._make_protocol()
            protocol.arrival = arrival
            return protocol

        seconds = HANDSHAKE_SECONDS if self._tls is not None else None
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                make_protocol,
                taken,
                ssl=self._tls,
                ssl_handshake_timeout=seconds,
                ssl_shutdown_timeout=seconds,
            )
        except OSError:  # it left, or its handshake failed; TimeoutError is one
            arrival.has_left()


def _count(arrival: Arrival, group: dict[Arrival, None], most: int) -> None:
    """Add it to a group, in which the oldest gives way."""
    group[arrival] = None
    if len(group) > most:
        next(iter(group)).end()


def _has_hung_up(taken: socket.socket) -> bool:
    poll = select.poll()
    poll.register(taken, select.POLLRDHUP)
    return bool(poll.poll(0))
