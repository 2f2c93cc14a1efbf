# SPDX-License-Identifier: Apache-2.0
"""A sidecar's end: what SIGTERM and SIGKILL leave."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import httpx
import pytest
from support.jetstream import RawNatsClient
from support.lifecycle import in_background, in_doubt, serving
from support.process import wait_until
from support.sidecar import SidecarProcess, post

if TYPE_CHECKING:
    from pathlib import Path

    from support.nats import NatsProcess


def is_stopping(process: SidecarProcess) -> bool:
    return any(row["event"] == "stopping" for row in process.rows())


def test_sigterm_ends_with_exit_status_0_and_takes_the_socket_away(
    own_nats: NatsProcess, tmp_path: Path
) -> None:
    with serving(own_nats, tmp_path) as (process, http):
        assert post(http).status_code == 201
        wait_until(lambda: "initsync_missing" in process.output(), what="all said")
        assert process.terminate() == 0
        assert not process.socket.exists()
        names = [row["event"] for row in process.rows()]
        assert names[-2:] == ["stopping", "stopped"]
        assert not any(row["level"] == "error" for row in process.rows())


def test_a_waiting_reader_does_not_hold_up_the_end(
    own_nats: NatsProcess, tmp_path: Path
) -> None:
    with serving(own_nats, tmp_path) as (process, http):
        asked = in_background(lambda: http.get("/v1/events?offset=next&wait=60"))
        wait_until(lambda: "readers_waiting 1.0" in http.get("/metrics").text)
        assert process.terminate(30) == 0  # half of the reader's time
        with suppress(httpx.HTTPError):
            assert asked.result(5).status_code in (200, 503)


def test_sigterm_keeps_the_truth_of_a_publish_in_flight(
    own_nats: NatsProcess, tmp_path: Path
) -> None:
    with in_doubt(own_nats, tmp_path, seconds=20) as (process, asked, last):
        process.running.terminate()
        wait_until(lambda: is_stopping(process))
        own_nats.thaw()
        answer = asked.result(20)
        assert process.running.wait(20) == 0
        assert answer.status_code in (200, 201), answer
        assert answer.json()["offset"] == last + 1
    with RawNatsClient(own_nats.port) as operator:
        assert operator.state("hermes")["last_seq"] == last + 1


def test_sigterm_answers_unknown_for_what_cannot_be_resolved(
    own_nats: NatsProcess, tmp_path: Path
) -> None:
    with in_doubt(own_nats, tmp_path, seconds=8) as (process, asked, _):
        status = process.terminate()
        answer = asked.result(20)
        assert (answer.status_code, answer.json()["outcome"]) == (504, "unknown")
        own_nats.thaw()
        assert status == 0


def test_a_second_sigterm_exits_at_once(own_nats: NatsProcess, tmp_path: Path) -> None:
    with in_doubt(own_nats, tmp_path, seconds=60) as (process, asked, _):
        process.running.terminate()
        wait_until(lambda: is_stopping(process))
        assert process.is_alive
        assert process.terminate() != 0
        own_nats.thaw()
        with pytest.raises(httpx.HTTPError):
            asked.result(10)


def test_a_killed_sidecar_can_be_started_again_on_its_socket(
    own_nats: NatsProcess, tmp_path: Path
) -> None:
    with serving(own_nats, tmp_path) as (process, http):
        last = post(http).json()["offset"]
        process.kill()
        assert process.socket.exists()
        process.start()
        process.wait_ready()
        with process.client() as again:
            assert post(again, last=last).json()["offset"] == last + 1
