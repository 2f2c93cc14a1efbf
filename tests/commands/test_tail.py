# SPDX-License-Identifier: Apache-2.0
"""`tail`: what it shows of a stream, and when it ends."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from support.commands import SECRET, Ran, Run, assert_complaint, interruptible
from support.fake_sidecar import FakeSidecar, Reply, problem
from support.jetstream import RawNatsClient
from support.sidecar import SidecarProcess, environment, event, post

if TYPE_CHECKING:
    from pathlib import Path

    from support.nats import NatsProcess


HEADER = "OFFSET"


@pytest.fixture
def told(sidecar: SidecarProcess) -> SidecarProcess:
    """Let the stream end with twelve known events."""
    with sidecar.client() as http:
        for number in range(12):
            body = event(
                "initsync" if number == 11 else "base",
                objpkey=number,
                objattrs={"password": SECRET},
            )
            assert post(http, body).status_code == 201
    return sidecar


def tail(run: Run, told: SidecarProcess, *arguments: str) -> list[str]:
    """Give the lines of what it shows, without the header."""
    ran = run("tail", *arguments, unix_socket=told.socket)
    assert ran.returncode == 0, ran.stderr
    assert SECRET not in ran.stdout or "--show-payload" in arguments
    return lines_of(ran) if "--json" not in arguments else ran.stdout.splitlines()


def lines_of(ran: Ran) -> list[str]:
    header, *lines = ran.stdout.splitlines() or [HEADER]
    assert header.startswith(HEADER)
    return lines


def test_tail_shows_the_last_ten_without_what_they_hold(
    run: Run, told: SidecarProcess
) -> None:
    lines = tail(run, told)
    assert len(lines) == 10
    assert "initsync" in lines[-1]
    assert "added" in lines[-1]
    assert "Users" in lines[-1]


@pytest.mark.parametrize(
    ("arguments", "count"),
    [
        (["--from", "-3"], 3),
        (["--from=-3"], 3),
        (["--from", "next"], 0),
        (["--from", "-12", "--category", "initsync"], 1),
    ],
)
def test_tail_begins_where_it_is_told(
    run: Run, told: SidecarProcess, arguments: list[str], count: int
) -> None:
    assert len(tail(run, told, *arguments)) == count


def test_tail_from_first_shows_everything_in_order(
    run: Run, told: SidecarProcess
) -> None:
    rows = [json.loads(line) for line in tail(run, told, "--from", "first", "--json")]
    offsets = [row["offset"] for row in rows]
    assert offsets == list(range(offsets[0], offsets[0] + len(offsets)))
    assert len(offsets) >= 12
    assert "event" not in rows[0]


def tail_of(run: Run, fake: FakeSidecar) -> Ran:
    port = fake.url.rpartition(":")[2]
    return run("tail", "--from", "7", http_port=port, tcp_api="open")


def test_tail_does_not_take_a_copy_that_lags_for_the_end(run: Run) -> None:
    row = {"offset": 7, "timestamp": "t", "category": "base", "data": "{}"}
    pages: list[Reply | str] = [
        Reply(200, {"events": rows, "next_offset": offset, "last_offset": 7})
        for rows, offset in (([], 7), ([row], 8), ([], 8))
    ]
    with FakeSidecar(*pages) as fake:
        ran = tail_of(run, fake)
    assert ran.returncode == 0, ran.stderr
    assert len(lines_of(ran)) == 1


NOT_YET = Reply(200, {"events": [], "next_offset": 7, "last_offset": 7})
UNAVAILABLE = problem(503, "jetstream_unavailable")


SLOWLY_FAILED = Reply(200, UNAVAILABLE.document | {"status": 503})
"""A page that had begun before it failed."""


@pytest.mark.parametrize(
    "between", [NOT_YET, UNAVAILABLE, SLOWLY_FAILED, problem(429, "busy")]
)
def test_tail_asks_again_for_what_nobody_could_say(run: Run, between: Reply) -> None:
    row = {"offset": 7, "timestamp": "t", "category": "base", "data": "{}"}
    found = Reply(200, {"events": [row], "next_offset": 8, "last_offset": 7})
    end = Reply(200, {"events": [], "next_offset": 8, "last_offset": 7})
    with FakeSidecar(between, found, between, end) as fake:
        ran = tail_of(run, fake)
    assert ran.returncode == 0, ran.stderr
    assert len(lines_of(ran)) == 1


@pytest.mark.parametrize(
    ("answer", "text"),
    [(NOT_YET, "whether there are more"), (UNAVAILABLE, "jetstream_unavailable")],
)
def test_tail_of_an_end_that_nobody_says_fails_after_its_patience(
    run: Run, monkeypatch: pytest.MonkeyPatch, answer: Reply, text: str
) -> None:
    monkeypatch.setattr("sidecar.commands.stored_events.PATIENCE_SECONDS", 0.5)
    with FakeSidecar(answer) as fake:
        assert_complaint(tail_of(run, fake), 1, text)
        assert len(fake.requests) > 1


def test_tail_of_a_damaged_stream_fails_at_once(run: Run) -> None:
    with FakeSidecar(problem(503, "unreadable")) as fake:
        assert_complaint(tail_of(run, fake), 1, "unreadable")
        assert len(fake.requests) == 1


def test_tail_shows_payloads_only_when_asked_and_says_so(
    run: Run, told: SidecarProcess
) -> None:
    ran = run("tail", "--show-payload", "--from", "-2", unix_socket=told.socket)
    assert ran.stdout.count(SECRET) == 2
    assert "passwords" in ran.stderr


def test_tail_shows_an_event_that_lacks_everything(
    run: Run, sidecar: SidecarProcess
) -> None:
    with sidecar.client() as http:
        offset = post(http, b'{"evcategory": "odd"}').json()["offset"]
    ran = run(
        "tail",
        "--show-payload",
        "--category=odd",
        f"--from={offset}",
        unix_socket=sidecar.socket,
    )
    assert (ran.returncode, len(lines_of(ran))) == (0, 1), ran.stderr


def test_tail_shows_what_another_program_stored_and_is_no_event(
    run: Run, nats: NatsProcess, sidecar: SidecarProcess
) -> None:
    with RawNatsClient(nats.port) as operator:
        texts = (b"", b"{", b"[1]", b"\xff")
        answers = [operator.ask("hermes.odd", text) for text in texts]
    offsets = [json.loads(answer)["seq"] for answer in answers]
    ran = run("tail", f"--from={offsets[0]}", "--json", unix_socket=sidecar.socket)
    rows = [json.loads(line) for line in ran.stdout.splitlines()]
    assert [row["offset"] for row in rows][:4] == offsets, ran.stderr
    assert [row["type"] for row in rows][:4] == [None] * 4


def test_tail_follows_until_ctrl_c(told: SidecarProcess) -> None:
    environ = environment(unix_socket=told.socket)
    with interruptible("tail", "--follow", "--from=-1", environ=environ) as following:
        assert following.stdout is not None
        assert following.stdout.readline().startswith(HEADER)
        assert following.stdout.readline()
        with told.client() as http:
            offset = post(http, event(eventtype="removed")).json()["offset"]
        line = following.stdout.readline()
        assert str(offset) in line
        assert "removed" in line
        following.send_signal(signal.SIGINT)
        _, complaint = following.communicate(timeout=10)
    assert following.returncode == 130
    assert complaint == ""


def test_tail_into_a_closed_pipe_ends_quietly(told: SidecarProcess) -> None:
    command = f"{sys.executable} -m sidecar tail --from first | head -n 2"
    ran = subprocess.run(
        ["/bin/sh", "-c", command],
        env=environment(unix_socket=told.socket),
        capture_output=True,
        text=True,
        check=False,
    )
    assert len(ran.stdout.splitlines()) == 2
    assert ran.stderr == ""


def test_tail_of_an_offset_that_is_gone_is_a_sentence(
    run: Run, told: SidecarProcess
) -> None:
    ran = run("tail", "--from", "1", unix_socket=told.socket)
    assert_complaint(ran, 1, "no longer holds")


def test_tail_without_a_daemon_is_a_sentence(run: Run, private: Path) -> None:
    assert_complaint(run("tail", unix_socket=private / "s"), 1, "does not answer")
