# SPDX-License-Identifier: Apache-2.0
"""One line on stderr for each event of the daemon's life, as JSON or for a terminal."""

from __future__ import annotations

import logging
import sys
from typing import Any, Literal

import structlog

log: structlog.stdlib.BoundLogger = structlog.get_logger()

Level = Literal["debug", "info", "warning", "error"]
Format = Literal["json", "console"]


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
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
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
                renderer,
            ],
        )
    )
    logging.basicConfig(handlers=[stderr], level=numeric_level, force=True)
    # nats-py reports to our callbacks; its own lines repeat that, with tracebacks.
    logging.getLogger("nats").setLevel(logging.CRITICAL)
    # uvicorn tells of its own start and stop, which our lines do.
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
