# SPDX-License-Identifier: Apache-2.0
"""Logging is configured once for a process, so each case is a process of its own."""

from __future__ import annotations

import json
import os
import pty
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from support.sidecar import SidecarProcess

if TYPE_CHECKING:
    from pathlib import Path

SAY = """
import logging
from sidecar.telemetry.log import configure, log
configure({level!r}, {log_format!r})
{code}
"""


def run(
    code: str, level: str = "info", log_format: str | None = "json"
) -> subprocess.CompletedProcess[str]:
    script = SAY.format(level=level, log_format=log_format, code=code)
    return subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )


def rows(code: str, level: str = "info") -> list[dict[str, Any]]:
    return [json.loads(line) for line in run(code, level).stderr.splitlines()]


def test_a_line_is_a_json_object_with_event_level_and_utc_time() -> None:
    (row,) = rows("log.info('started', port=7, name='Zoé')")
    assert row["event"] == "started"
    assert row["level"] == "info"
    assert row["timestamp"].endswith("Z")
    assert (row["port"], row["name"]) == (7, "Zoé")


def test_nothing_goes_to_stdout() -> None:
    assert run("log.error('x')").stdout == ""


@pytest.mark.parametrize(
    ("level", "shown"),
    [
        ("debug", ["debug", "info", "warning", "error"]),
        ("info", ["info", "warning", "error"]),
        ("warning", ["warning", "error"]),
        ("error", ["error"]),
    ],
)
def test_lines_below_the_level_are_not_written(level: str, shown: list[str]) -> None:
    code = "for one in ('debug', 'info', 'warning', 'error'): getattr(log, one)('x')"
    assert [row["level"] for row in rows(code, level)] == shown


def test_a_library_writes_in_the_same_format() -> None:
    (row,) = rows("logging.getLogger('asyncio').warning('slow %s', 'callback')")
    assert (row["event"], row["level"]) == ("slow callback", "warning")
    assert "timestamp" in row


def test_a_line_break_in_a_value_stays_on_one_line() -> None:
    (row,) = rows("log.info('x', text='a\\nb')")
    assert row["text"] == "a\nb"


@pytest.mark.parametrize("log_format", ["console", "json"])
@pytest.mark.parametrize("place", ["text='{}'", "texts=['{}']"])
def test_no_terminal_obeys_what_others_have_named(log_format: str, place: str) -> None:
    foreign = r"\x1b]0;PWN\x07 \x9b2J \u202e \r end"
    line = run(f"log.info('x', {place.format(foreign)})", log_format=log_format).stderr
    shown = line.strip().replace("\x1b[0m", "")
    for part in ("\x1b]", "\x07", "\x9b", "\u202e", "\r"):
        assert part not in shown
    assert "PWN" in shown
    assert shown.count("\n") == 0


def test_nats_py_does_not_repeat_what_its_callbacks_told_us() -> None:
    assert rows("logging.getLogger('nats.aio.client').error('x')") == []


def test_a_console_line_is_for_people() -> None:
    line = run("log.info('started', port=7)", log_format="console").stderr
    assert "started" in line
    assert not line.startswith("{")


def test_without_a_format_a_pipe_gets_json() -> None:
    line = run("log.info('started')", log_format=None).stderr
    assert json.loads(line)["event"] == "started"


def test_without_a_format_a_terminal_gets_lines_for_people() -> None:
    script = SAY.format(level="info", log_format=None, code="log.info('started')")
    parent, child = pty.openpty()
    try:
        subprocess.run([sys.executable, "-c", script], stderr=child, check=True)
        text = os.read(parent, 4096).decode()
    finally:
        os.close(child)
        os.close(parent)
    assert "started" in text
    assert not text.startswith("{")


def test_an_error_that_comes_again_is_one_line_and_a_count_at_the_end() -> None:
    code = """
from sidecar.telemetry.log import tell_repeats
for number in range(5): log.error('internal_error', error='KeyError', where='here')
log.error('internal_error', error='OSError', where='here')
tell_repeats()
"""
    told = [(row["event"], row.get("error"), row.get("times")) for row in rows(code)]
    assert told == [
        ("internal_error", "KeyError", None),
        ("internal_error", "OSError", None),
        ("repeated", None, 4),
    ]


def test_what_is_no_http_is_told_once() -> None:
    code = """
server = logging.getLogger('uvicorn.error')
for _ in range(3): server.warning('Invalid HTTP request received.')
server.error('Exception in ASGI application')
"""
    assert [row["event"] for row in rows(code)] == [
        "no_http",
        "Exception in ASGI application",
    ]


def test_a_line_of_daily_life_is_never_dropped() -> None:
    assert len(rows("for number in range(5): log.info('nats_connected')")) == 5
    assert len(rows("for number in range(5): log.info('embedded_nats', text='x')")) == 5


def test_whoever_causes_lines_of_the_embedded_server_silences_no_error_of_ours() -> (
    None
):
    code = """
for n in range(99):
    log.error('embedded_nats', text=f'127.0.0.1:{n} - cid:{n} - authentication error')
for n in range(99):
    log.error('embedded_nats', text=f'another text each time: {n}')
log.error('token_unreadable', file='/t')
"""
    told = [row.get("text", row["event"]) for row in rows(code)]
    assert told[0] == "127.0.0.1:0 - cid:0 - authentication error"
    assert told[1] == "another text each time: 0"
    assert told[-1] == "token_unreadable"
    assert len(told) == 31


def test_at_level_error_no_warning_is_logged(tmp_path: Path) -> None:
    process = SidecarProcess(tmp_path / "s", log_level="error")
    process.start()
    try:
        process.wait_live()
        with socket.socket(socket.AF_UNIX) as raw:
            raw.connect(str(process.socket))
            raw.sendall(b"no http\r\n\r\n")
            while raw.recv(65536):
                pass
    finally:
        process.stop()
    assert process.output() == ""
