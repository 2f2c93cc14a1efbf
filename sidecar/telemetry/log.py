# SPDX-License-Identifier: Apache-2.0
"""One line on stderr for each event of the daemon's life, as JSON or for a terminal."""

from __future__ import annotations

import logging
import os
import re
import select
import time
import traceback
from itertools import chain
from typing import TYPE_CHECKING, Any, Final, Literal

import structlog

from sidecar.command_error import printable
from sidecar.telemetry.deduplication import Deduplication

if TYPE_CHECKING:
    from collections.abc import Callable, MutableMapping

log: structlog.stdlib.BoundLogger = structlog.get_logger()

Level = Literal["debug", "info", "warning", "error"]
Format = Literal["json", "console"]

_SERIES: Final[dict[str, tuple[str, ...]]] = {
    "token_unreadable": ("file",),
    "internal_error": ("error", "where"),
    "jetstream_error": ("jetstream_code",),
    "embedded_nats_ended": ("exit_status",),
    "embedded_nats": ("level", "text"),
    "no_http": ("text",),
}
"""Errors that may come again and again, and what makes two of them the same."""

_OF_MANY_LINES: Final = ("where", "exception")
"""Tracebacks: names of our files and lines of our code."""
_STDERR = 2
_PIECE_BYTES = select.PIPE_BUF  # a pipe that takes anything takes so much

_CALLER = re.compile(r"\S+:\d+ - \w+:\d+ - ")
"""Of a line of nats-server: each connection has another."""

_repeats = Deduplication()
_servers = Deduplication()
"""Apart, for whoever reaches the embedded server's port may cause its lines: they must
leave room for ours."""
_OURS: Final = (_repeats, _servers)


class _Stderr:
    """stderr, which somebody reads or not: a line that it does not take is dropped.

    A pipe that nobody empties would hold up the whole daemon.
    """

    def __init__(self) -> None:
        self.dropped_lines = 0
        self._rest = b""  # of a line that was taken in part

    def write(self, text: str) -> None:
        """Write one line, if that does not have to wait."""
        self._rest = self._left_of(self._rest)
        if self._rest:
            self.dropped_lines += 1
            return
        line = text.encode("utf-8", "backslashreplace")
        left = self._left_of(line)
        if len(left) == len(line):
            self.dropped_lines += 1
        else:
            self._rest = left

    def flush(self) -> None:
        """Do nothing: nothing is kept."""

    def _left_of(self, data: bytes) -> bytes:
        """Write what is taken at once; give the rest."""
        while data:
            poll = select.poll()
            poll.register(_STDERR, select.POLLOUT)
            if not any(found & select.POLLOUT for _, found in poll.poll(0)):
                return data
            try:
                data = data[os.write(_STDERR, data[:_PIECE_BYTES]) :]
            except OSError:  # nobody reads it any more, or its disk is full
                return data
        return data


class _Lines(logging.StreamHandler[_Stderr]):
    """Writes lines; before the first that is taken again, how many were dropped."""

    _is_telling = False

    def emit(self, record: logging.LogRecord) -> None:
        dropped = self.stream.dropped_lines
        if dropped and not self._is_telling:
            self._is_telling = True
            self.stream.dropped_lines = 0
            log.warning("log_dropped", lines=dropped)
            self.stream.dropped_lines = dropped if self.stream.dropped_lines else 0
            self._is_telling = False
        super().emit(record)


def tell_repeats(
    repeats: Deduplication | None = None, now: float | None = None
) -> None:
    """Log how often something came again, for each series that has ended, or all.

    Without `repeats`: of the log's own lines.
    """
    for each in chain.from_iterable(
        one.end(now) for one in ([repeats] if repeats is not None else _OURS)
    ):
        log.warning(
            "repeated",
            of=each.key[0],
            what=" ".join(each.key[1:]),
            times=each.times,
            seconds=round(each.seconds, 1),
        )


def internal_error(error: Exception) -> None:
    """Log an error of our own: its place, for its text may hold what it tripped on."""
    log.error(
        "internal_error",
        error=type(error).__name__,
        where="".join(traceback.format_tb(error.__traceback__)[-3:]),
    )


def _drop_repeats(
    _: Any, __: str, line: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    names = _SERIES.get(line["event"])
    if names is None or line["level"] not in ("warning", "error"):
        return line
    key = (line["event"], *(str(line.get(name)) for name in names))
    repeats = _repeats
    if line["event"] == "embedded_nats":
        key, repeats = tuple(_CALLER.sub("", part) for part in key), _servers
    if not repeats.should_log(key, time.monotonic()):
        raise structlog.DropEvent
    return line


def _make_printable(
    _: Any, __: str, line: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    for name, value in line.items():
        if name not in _OF_MANY_LINES:
            line[name] = _shown(value, printable)
    return line


def _make_lines_printable(
    _: Any, __: str, line: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """Do the same where JSON shows line ends."""
    for name, value in line.items():
        line[name] = _shown(
            value, lambda text: "\n".join(map(printable, text.split("\n")))
        )
    return line


def _shown(value: Any, show: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return show(value)
    if isinstance(value, list | tuple):
        return [_shown(each, show) for each in value]
    return value


def _is_news(record: logging.LogRecord) -> bool:
    """Tell a library's line once for a series, as asyncio's for each TLS handshake."""
    if not isinstance(record.msg, str) or record.levelno < logging.WARNING:
        return True  # ours, or asked for
    text = record.msg.partition("\n")[0]
    return _repeats.should_log(("library", record.name, text), time.monotonic())


def _tell_once(record: logging.LogRecord) -> bool:
    """Make uvicorn's warnings ours: a caller may cause them twice a second for ever."""
    if record.levelno != logging.WARNING:
        return True
    log.warning("no_http", text=record.getMessage())
    return False


def configure(level: Level, log_format: Format | None = None) -> None:
    """Send our lines and those of the libraries to stderr in one format.

    Without a format: console on a terminal, json elsewhere.
    """
    numeric_level = logging.getLevelNamesMapping()[level.upper()]
    shared: list[Any] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[
            *shared,
            _drop_repeats,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(numeric_level),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    is_console = log_format == "console" or (log_format is None and os.isatty(_STDERR))
    renderer: Any = (
        structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
        if is_console
        else structlog.processors.JSONRenderer(ensure_ascii=False)
    )
    stderr = _Lines(_Stderr())
    stderr.addFilter(_is_news)
    stderr.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                _make_printable if is_console else _make_lines_printable,
                renderer,
            ],
        )
    )
    logging.basicConfig(handlers=[stderr], level=numeric_level, force=True)
    # nats-py reports to our callbacks; its own lines repeat that, with tracebacks.
    logging.getLogger("nats").setLevel(logging.CRITICAL)
    # uvicorn tells of its own start and stop, which our lines do.
    uvicorn = logging.getLogger("uvicorn.error")
    uvicorn.setLevel(max(numeric_level, logging.WARNING))
    uvicorn.addFilter(_tell_once)
