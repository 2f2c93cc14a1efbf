# SPDX-License-Identifier: Apache-2.0
"""An event loop on virtual time: nothing is ever waited for, and a run repeats exactly.

When nothing is ready the clock jumps to the next timer. Tasks and futures hash by the
order of their making, so that a set of them is walked the same way in each run. What a
frozen process would run is held until it is thawed. Source of the idea: FoundationDB's
simulation (https://apple.github.io/foundationdb/testing.html).
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from contextvars import Context, ContextVar
from typing import TYPE_CHECKING, Any, Final, Self

if TYPE_CHECKING:
    from asyncio import Handle, TimerHandle
    from collections import deque
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
NO_PROCESS: Final = Context()
"""The context of what belongs to no process, as the network: it is never frozen."""


class Task(asyncio.Task[Any]):
    """A task that knows its process and hashes by its number."""

    numbers = itertools.count()

    def __new__(cls, *_: Any, **__: Any) -> Self:
        """Give it its number before asyncio puts it into a set."""
        task = super().__new__(cls)
        task.number = next(cls.numbers)
        return task

    number: int

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


class VirtualLoop(asyncio.BaseEventLoop):
    """asyncio's own loop without a selector; time passes only when nothing is ready."""

    _ready: deque[Handle]

    def __init__(self) -> None:
        super().__init__()
        # A set is walked by its members' hashes: they must begin anew with each run.
        Task.numbers, Future.numbers = itertools.count(), itertools.count()
        self._seconds = 0.0
        self._frozen = 0
        self.set_task_factory(_make_task)  # type: ignore[arg-type]  # of 3.11 to 3.14
        self._timers: list[tuple[float, int, TimerHandle]] = []
        self._count = itertools.count()

    def time(self) -> float:
        """Give the virtual time in seconds."""
        return self._seconds

    def wall(self) -> float:
        """Give the virtual wall clock in seconds since 1970."""
        return EPOCH_SECONDS + self._seconds

    def call_at(  # type: ignore[override]  # without TypeVarTuple
        self,
        when: float,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> TimerHandle:
        """Call at a virtual time; of two at one time the first asked comes first."""
        timer = asyncio.TimerHandle(when, callback, args, self, context)
        heapq.heappush(self._timers, (when, next(self._count), timer))
        return timer

    def _timer_handle_cancelled(self, handle: TimerHandle) -> None:
        """Leave it: it is passed over when its time comes."""

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
        process.is_dead = True
        self.thaw(process)
        tasks, process.tasks = process.tasks, []
        for task in tasks:
            task.cancel()

    def _run_once(self) -> None:
        ready, timers = self._ready, self._timers
        if not ready:
            while timers and timers[0][2]._cancelled:
                heapq.heappop(timers)
            if not timers:
                if self._stopping:  # type: ignore[attr-defined]
                    return
                raise Stuck
            self._seconds = max(self._seconds, timers[0][0])
        while timers and timers[0][0] <= self._seconds:
            ready.append(heapq.heappop(timers)[2])
        for _ in range(len(ready)):
            handle = ready.popleft()
            if handle._cancelled:
                continue
            if self._frozen:
                process = handle._context.get(PROCESS)  # type: ignore[attr-defined]
                if process is not None and process.held is not None:
                    process.held.append(handle)
                    continue
            handle._run()

    def _write_to_self(self) -> None:
        """Wake no selector: there is none."""

    def _process_events(self, event_list: Any) -> None:
        """Take nothing from a selector: there is none."""


def _make_task(
    loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, Any], **options: Any
) -> Task:
    process = PROCESS.get()
    if process is not None and process.is_dead:
        coroutine.close()
        coroutine = _nothing()
    task = Task(coroutine, loop=loop, **options)
    if process is not None:
        if len(process.tasks) > 200:
            process.tasks = [each for each in process.tasks if not each.done()]
        process.tasks.append(task)
    return task


async def _nothing() -> None:
    """Do in place of a dead process's task what it does: nothing."""
