# SPDX-License-Identifier: Apache-2.0
"""`provision` and `check`: the stream, and what is said of an unfit one."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from support.commands import Run, assert_complaint
from support.jetstream import RawNatsClient

if TYPE_CHECKING:
    from pathlib import Path

    from support.nats import NatsProcess


def info(stream: dict[str, object], nats: NatsProcess) -> Any:
    with RawNatsClient(nats.port) as operator:
        answer = operator.api(f"STREAM.INFO.{stream['stream']}")
        return {key: answer[key] for key in ("config", "created", "state")}


def test_provision_creates_a_fit_stream_once(
    run: Run, stream: dict[str, object], nats: NatsProcess
) -> None:
    before_us = int(time.time() * 1_000_000)
    ran = run("provision", **stream)
    assert (ran.returncode, ran.stderr) == (0, "")
    made = info(stream, nats)
    assert before_us <= made["state"]["first_seq"] <= time.time() * 1_000_000
    assert str(made["state"]["first_seq"]) in ran.stdout
    assert made["config"]["subjects"] == [f"{stream['stream']}.*"]
    assert made["config"]["max_age"] == 90 * 86400 * 10**9
    checked = run("check", **stream)
    assert (checked.returncode, checked.stderr) == (0, "")
    assert "is usable" in checked.stdout
    again = run("provision", **stream)
    assert (again.returncode, again.stderr) == (0, "")
    assert "matches the settings" in again.stdout
    assert info(stream, nats) == made


def test_check_warns_of_a_token_that_goes_over_http(
    run: Run, stream: dict[str, object], private: Path
) -> None:
    run("provision", **stream)
    token = private / "token"
    token.write_text("c0rrect-horse")
    warned = run("check", **stream, token_file=token)
    assert warned.returncode == 0
    assert "The token goes over http://" in warned.stdout


def test_provision_starts_at_the_offset_it_is_told(
    run: Run, stream: dict[str, object], nats: NatsProcess
) -> None:
    ran = run("provision", "--first-offset", "1234", **stream)
    assert ran.returncode == 0
    made = info(stream, nats)
    assert (made["state"]["first_seq"], made["state"]["last_seq"]) == (1234, 1233)
    again = run("provision", "--first-offset", "5000", **stream)
    assert again.returncode == 5
    assert "its next offset is 1234, not 5000: nothing was changed" in again.stdout
    assert info(stream, nats) == made


def test_provision_says_what_differs_and_changes_nothing(
    run: Run, stream: dict[str, object], nats: NatsProcess
) -> None:
    run("provision", **stream)
    made = info(stream, nats)
    ran = run("provision", **stream, stream_max_age_days=7, stream_replicas=3)
    assert ran.returncode == 5
    lines = ran.stdout.splitlines()
    assert len(lines) == 2
    assert {line.split(" ")[0] for line in lines} == {"max_age", "num_replicas"}
    assert info(stream, nats) == made


def test_check_names_each_fault_of_an_unfit_stream(
    run: Run, stream: dict[str, object], nats: NatsProcess
) -> None:
    with RawNatsClient(nats.port) as operator:
        operator.create(str(stream["stream"]), storage="memory", allow_direct=False)
    ran = run("check", **stream)
    assert ran.returncode == 5
    assert "Storage is not file" in ran.stdout
    assert "allow_direct is not set" in ran.stdout
    assert run("provision", **stream).returncode == 5


def test_a_stream_whose_subjects_another_one_holds_is_a_sentence(
    run: Run,
    stream: dict[str, object],
) -> None:
    run("provision", **stream)
    ran = run("provision", **(stream | {"stream": f"{stream['stream']}b"}))
    assert_complaint(ran, 5, "refused", "subjects overlap")


def test_more_replicas_than_servers_is_a_sentence(
    run: Run, stream: dict[str, object]
) -> None:
    ran = run("provision", **stream, stream_replicas=3)
    assert_complaint(ran, 5, "refused")
