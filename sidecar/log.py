# SPDX-License-Identifier: Apache-2.0
"""One line on stderr for each event of the daemon's life, as JSON or for a terminal."""

from __future__ import annotations

import logging
import sys
import time
import traceback
from typing import TYPE_CHECKING, Any, Final, Literal

import structlog

from sidecar.complaint import printable
from sidecar.repeats import Repeats

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

_repeats = Repeats()


def tell_repeats(repeats: Repeats = _repeats, now: float | None = None) -> None:
    """Log how often something came again, for each series that has ended, or all."""
    for each in repeats.end(now):
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
    if not _repeats.is_new(key, time.monotonic()):
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
    is_console = log_format == "console" or (log_format is None and sys.stderr.isatty())
    renderer: Any = (
        structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
        if is_console
        else structlog.processors.JSONRenderer(ensure_ascii=False)
    )
    stderr = logging.StreamHandler(sys.stderr)
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
