# SPDX-License-Identifier: Apache-2.0
"""An event loop on virtual time: nothing is ever waited for, and a run repeats exactly.

When nothing is ready the clock jumps to the next timer. Tasks and futures hash by the
order of their making, so that a set of them is walked the same way in each run. What a
frozen process would run is held until it is thawed. Source of the idea: FoundationDB's
simulation (https://apple.github.io/foundationdb/testing.html).
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from contextvars import Context, ContextVar, copy_context
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Any, Final, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

EPOCH_SECONDS: Final = 1_800_000_000.0
"""Since 1970, when virtual time begins: a wall clock that repeats too."""


class Stuck(Exception):  # noqa: N818 - a state, not an error of somebody's
    """Nothing is left to happen, and what the run waits for has not."""


class Process:
    """What can be frozen or killed as a whole: all that was started in its context."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.is_dead = False
        self.tasks: list[Task] = []
        self.held: list[Handle] | None = None  # a list while it is frozen
        self.context = Context()
        self.context.run(PROCESS.set, self)


PROCESS: ContextVar[Process | None] = ContextVar("process", default=None)


class Task(asyncio.Task[Any]):
    """A task that knows its process and hashes by its number."""

    numbers = itertools.count()

    def __new__(cls, *_: Any, **__: Any) -> Self:
        """Give it its number before asyncio puts it into a set."""
        task = super().__new__(cls)
        task.number = next(cls.numbers)
        return task

    number: int
    process: Process | None = None

    @property
    def has_died_unseen(self) -> bool:
        """Tell whether it failed, and nobody has asked how it ended."""
        return bool(self._log_traceback)  # asyncio's own

    def __hash__(self) -> int:
        return self.number

    def __eq__(self, other: object) -> bool:
        return self is other


class Future(asyncio.Future[Any]):
    """A future that hashes by its number."""

    numbers = itertools.count()

    def __init__(self, **options: Any) -> None:
        self.number = next(self.numbers)
        super().__init__(**options)

    def __hash__(self) -> int:
        return self.number

    def __eq__(self, other: object) -> bool:
        return self is other


class Handle:
    """What asyncio's handles are to their users, without what only a debugger reads."""

    __slots__ = ("arguments", "callback", "context", "is_cancelled", "time")

    def __init__(
        self,
        time: float,
        callback: Callable[..., object],
        arguments: tuple[Any, ...],
        context: Context | None,
    ) -> None:
        self.time = time
        self.callback: Callable[..., object] = callback
        self.arguments = arguments
        self.context = copy_context() if context is None else context
        self.is_cancelled = False

    def cancel(self) -> None:
        """Let it not be called, and hold nothing any more."""
        self.is_cancelled = True
        self.callback, self.arguments = _nothing, ()

    def cancelled(self) -> bool:
        """Tell whether it was cancelled."""
        return self.is_cancelled

    def when(self) -> float:
        """Give the time of its call."""
        return self.time


Plain = tuple["Callable[..., object]", tuple[Any, ...]]
"""A call that belongs to no process and is never cancelled: most of a run's."""


class VirtualLoop(asyncio.BaseEventLoop):
    """asyncio's own loop without a selector; time passes only when nothing is ready."""

    def __init__(self) -> None:
        super().__init__()
        self._ready = deque[Handle | Plain]()
        # A set is walked by its members' hashes: they must begin anew with each run.
        Task.numbers, Future.numbers = itertools.count(), itertools.count()
        self._seconds = 0.0
        self._frozen = 0
        self.set_task_factory(_make_task)  # type: ignore[arg-type]  # of 3.11 to 3.14
        self._timers: list[tuple[float, int, Handle | Plain]] = []
        self._count = itertools.count()

    def time(self) -> float:
        """Give the virtual time in seconds."""
        return self._seconds

    def wall(self) -> float:
        """Give the virtual wall clock in seconds since 1970."""
        return EPOCH_SECONDS + self._seconds

    def call_soon(  # type: ignore[override]  # without TypeVarTuple
        self,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> Handle:
        """Call after all that is ready."""
        handle = Handle(self._seconds, callback, args, context)
        self._ready.append(handle)
        return handle

    call_soon_threadsafe = call_soon  # type: ignore[assignment]
    """There is one thread; asyncio closes generators that were left with it."""

    def call_later(  # type: ignore[override]
        self,
        delay: float,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> Handle:
        """Call after some virtual seconds."""
        when = self._seconds + delay
        handle = Handle(when, callback, args, context)
        heappush(self._timers, (when, next(self._count), handle))
        return handle

    def call_at(  # type: ignore[override]
        self,
        when: float,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> Handle:
        """Call at a virtual time; of two at one time the first asked comes first."""
        handle = Handle(when, callback, args, context)
        heappush(self._timers, (when, next(self._count), handle))
        return handle

    def plainly_soon(self, callback: Callable[..., object], *args: Any) -> None:
        """Call after all that is ready, whoever is frozen meanwhile."""
        self._ready.append((callback, args))

    def plainly_at(
        self, when: float, callback: Callable[..., object], *args: Any
    ) -> None:
        """Call at a virtual time, whoever is frozen meanwhile."""
        heappush(self._timers, (when, next(self._count), (callback, args)))

    def create_future(self) -> Future:
        """Make a future that hashes by its number."""
        return Future(loop=self)

    def freeze(self, process: Process) -> None:
        """Let nothing of a process run, as SIGSTOP does."""
        if process.held is None:
            process.held = []
            self._frozen += 1

    def thaw(self, process: Process) -> None:
        """Let it run all that has come meanwhile."""
        if process.held is not None:
            self._ready.extend(process.held)
            process.held = None
            self._frozen -= 1

    def kill(self, process: Process) -> None:
        """End all that a process would still do."""
        self.tell_of_died(process)
        process.is_dead = True
        self.thaw(process)
        tasks, process.tasks = process.tasks, []
        for task in tasks:
            task.cancel()

    def tell_of_died(self, process: Process) -> None:
        """Tell of each task that failed, and whose failure nobody has looked at."""
        if process.held is None:  # else whoever would look is frozen
            for task in process.tasks:
                if task.has_died_unseen:
                    task.exception()
                    context = {"message": "a task died unseen", "task": task}
                    self.call_exception_handler(context)

    def _run_once(self) -> None:
        ready, timers = self._ready, self._timers
        if not ready:
            while timers and _is_cancelled(timers[0][2]):
                heappop(timers)
            if not timers:
                if self._stopping:  # type: ignore[attr-defined]
                    return
                raise Stuck
            self._seconds = max(self._seconds, timers[0][0])
        while timers and timers[0][0] <= self._seconds:
            ready.append(heappop(timers)[2])
        for _ in range(len(ready)):
            item = ready.popleft()
            try:
                if not isinstance(item, Handle):
                    function, arguments = item
                    function(*arguments)
                elif not (item.is_cancelled or (self._frozen and _holds(item))):
                    item.context.run(item.callback, *item.arguments)
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as error:  # noqa: BLE001 - as asyncio does
                self.call_exception_handler(
                    {"message": "a callback failed", "exception": error, "handle": item}
                )

    def _write_to_self(self) -> None:
        """Wake no selector: there is none."""

    def _process_events(self, event_list: Any) -> None:
        """Take nothing from a selector: there is none."""


def process_of(context: dict[str, Any]) -> Process | None:
    """Give whose it was that asyncio's exception handler is told of."""
    task, handle = context.get("task"), context.get("handle")
    if isinstance(task, Task):
        return task.process
    return handle.context.get(PROCESS) if isinstance(handle, Handle) else None


def _is_cancelled(item: Handle | Plain) -> bool:
    return isinstance(item, Handle) and item.is_cancelled


def _holds(handle: Handle) -> bool:
    """Hold what a frozen process would do now; tell whether it is one's."""
    process = handle.context.get(PROCESS)
    if process is None or process.held is None:
        return False
    process.held.append(handle)
    return True


def _make_task(
    loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, Any], **options: Any
) -> Task:
    process = PROCESS.get()
    if process is not None and process.is_dead:
        coroutine.close()
        coroutine = _do_nothing()
    task = Task(coroutine, loop=loop, **options)
    if process is not None:
        task.process = process
        if len(process.tasks) > 200:
            process.tasks = [
                each
                for each in process.tasks
                if not each.done() or each.has_died_unseen
            ]
        process.tasks.append(task)
    return task


async def _do_nothing() -> None:
    """Do in place of a dead process's task what it does: nothing."""


def _nothing() -> None:
    """Stand for a call that was cancelled."""
