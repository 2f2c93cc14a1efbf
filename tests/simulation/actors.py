# SPDX-License-Identifier: Apache-2.0
"""Synchronous code on virtual time: a plugin blocks and everything else goes on.

Each actor is a greenlet of its own beside the loop's. It stands for a process of
Hermes: it can be killed where it blocks, and frozen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import greenlet

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from .clock import VirtualLoop


class Killed(BaseException):
    """The process ended here, as by SIGKILL: nothing may be sent after it."""


class Actor:
    """One process of Hermes: a function that may block."""

    def __init__(
        self, name: str, run: Callable[[], None], hub: greenlet.greenlet
    ) -> None:
        self.name = name
        self.failure: BaseException | None = None
        self.is_done = False
        self.is_killed = False
        self.is_frozen = False
        self.block = 0  # the number of its current block; a wake-up names it
        self.missed: int | None = None  # the block that ended while it was frozen
        self.greenlet = greenlet.greenlet(self._run, hub)
        self._function = run
        self._on_end: list[Callable[[], None]] = []

    def _run(self) -> None:
        try:
            self._function()
        except Killed:
            pass
        except Exception as error:  # noqa: BLE001 - the run shows it
            self.failure = error
        finally:
            self.is_done = True
        for on_end in self._on_end:
            on_end()

    def when_done(self, function: Callable[[], None]) -> None:
        """Call the function at its end, or now."""
        if self.is_done:
            function()
        else:
            self._on_end.append(function)


class Actors:
    """Starts actors and lets them block."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop
        self._hub = greenlet.getcurrent()  # the loop's
        self._of: dict[Any, Actor] = {}
        self.all: list[Actor] = []

    def spawn(self, name: str, run: Callable[[], None]) -> Actor:
        """Start a function that may block; it begins when the loop goes on."""
        actor = Actor(name, run, self._hub)
        self._of[actor.greenlet] = actor
        self.all.append(actor)
        self._loop.call_soon(self._wake, actor, actor.block)
        return actor

    def current(self) -> Actor:
        """Give the actor that runs now; KeyError outside of one."""
        return self._of[greenlet.getcurrent()]

    def sleep(self, seconds: float) -> None:
        """Block for virtual seconds."""
        actor = self.current()
        wakes_at = self._loop.time() + max(seconds, 0.0)
        self._loop.plainly_at(wakes_at, self._wake, actor, actor.block + 1)
        self._block(actor)

    def wait(self, future: asyncio.Future[Any], timeout: float | None = None) -> bool:
        """Block until the future is done; False if the timeout came first."""
        if future.done():
            return True
        actor = self.current()
        number = actor.block + 1
        future.add_done_callback(lambda _: self._wake(actor, number))
        if timeout is None:
            self._block(actor)
            return True
        timer = self._loop.call_later(timeout, self._wake, actor, number)
        self._block(actor)
        timer.cancel()
        return future.done()

    def kill(self, actor: Actor) -> None:
        """End an actor where it blocks; called from the loop, never from itself."""
        if actor.is_done or actor.is_killed:
            return
        actor.is_killed = True
        actor.is_frozen = False
        self._loop.call_soon(self._throw, actor)

    def freeze(self, actor: Actor) -> None:
        """Let it not go on, as SIGSTOP does."""
        actor.is_frozen = True

    def thaw(self, actor: Actor) -> None:
        """Let it go on."""
        actor.is_frozen = False
        if actor.missed is not None:
            missed, actor.missed = actor.missed, None
            self._loop.call_soon(self._wake, actor, missed)

    def _throw(self, actor: Actor) -> None:
        if not actor.is_done:
            actor.block += 1
            if actor.greenlet:
                actor.greenlet.throw(Killed)
            else:  # it never began
                actor.is_done = True

    def _block(self, actor: Actor) -> None:
        actor.block += 1
        self._hub.switch()

    def _wake(self, actor: Actor, number: int) -> None:
        if actor.is_done or actor.block != number:
            return
        if actor.is_frozen:
            actor.missed = number
            return
        actor.greenlet.switch()
