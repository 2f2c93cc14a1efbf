# SPDX-License-Identifier: Apache-2.0
"""A sidecar's life: NATS and its stream come and go."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from support.jetstream import RawNatsClient, wait_jetstream
from support.lifecycle import in_doubt, reasons, serving, started
from support.nats import NatsProcess, free_port
from support.process import wait_until
from support.sidecar import SidecarProcess, event, last_offset, post

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


# -- NATS comes and goes ---------------------------------------------------------------


def test_the_sidecar_starts_without_nats_and_becomes_ready_by_itself(
    tmp_path: Path,
) -> None:
    nats = NatsProcess(tmp_path / "nats", port=free_port())
    with (
        started(tmp_path / "s", nats_url=nats.url, stream_create=True) as process,
        process.client() as http,
    ):
        live = process.health("/health/live")
        assert live is not None
        assert live.status_code == 200
        assert "no connection to NATS" in reasons(process)
        answer = post(http)
        assert answer.status_code == 503
        assert (answer.json()["code"], answer.json()["outcome"]) == (
            "nats_down",
            "not_stored",
        )
        assert answer.headers["retry-after"] == "1"
        assert http.get("/v1/events").status_code == 503
        assert http.get("/v1/stream").status_code == 503
        with nats:
            process.wait_ready()
            assert post(http).status_code == 201


def test_nats_killed_and_restarted_between_two_events_loses_neither(
    own_nats: NatsProcess, tmp_path: Path
) -> None:
    with serving(own_nats, tmp_path) as (process, http):
        last = last_offset(http)
        assert post(http, event(objpkey=1), last).status_code == 201
        said = len(process.rows())
        own_nats.kill()
        wait_until(lambda: "no connection" in reasons(process), what="not ready")
        live = process.health("/health/live")
        assert live is not None
        assert live.status_code == 200
        own_nats.start()
        process.wait_ready()
        assert post(http, event(objpkey=2), last + 1).status_code == 201
        page = http.get("/v1/events", params={"offset": last + 1}).json()
        assert [row["data"].encode() for row in page["events"]] == [
            event(objpkey=1),
            event(objpkey=2),
        ]
        rows = process.rows()[said:]
        back = {row["purpose"] for row in rows if row["event"] == "nats_reconnected"}
        assert back == {"reads", "writes"}


def test_a_post_while_nats_is_down_is_held_and_stored_when_its_copy_had_left(
    own_nats: NatsProcess, tmp_path: Path
) -> None:
    with in_doubt(own_nats, tmp_path) as (process, asked, last):
        assert not asked.done()
        own_nats.kill()
        own_nats.start()
        answer = asked.result(20)
        assert answer.status_code in (200, 201)
        assert answer.json()["offset"] == last + 1
        process.wait_ready()
        with process.client() as http:
            assert last_offset(http) == last + 1


def test_a_frozen_nats_is_unknown_and_the_same_request_resolves_it(
    own_nats: NatsProcess, tmp_path: Path
) -> None:
    with serving(own_nats, tmp_path, publish_timeout_seconds=1) as (process, http):
        last = last_offset(http)
        own_nats.freeze()
        answer = post(http, last=last, key="same")
        assert (answer.status_code, answer.json()["outcome"]) == (504, "unknown")
        assert answer.json()["code"] == "unknown"
        assert answer.headers["retry-after"]
        health = process.health()  # it knows at once, not at the next look
        assert health is not None
        assert health.status_code == 503
        own_nats.thaw()
        process.wait_ready()
        answer = post(http, last=last, key="same")
        assert answer.status_code in (200, 201)
        assert answer.json()["offset"] == last + 1
        assert last_offset(http) == last + 1


def test_a_caller_that_leaves_leaves_nothing_behind(
    own_nats: NatsProcess, tmp_path: Path
) -> None:
    with serving(own_nats, tmp_path) as (process, http):
        last = last_offset(http)
        own_nats.freeze()
        with process.client(timeout=0.3) as impatient, pytest.raises(httpx.ReadTimeout):
            post(impatient, last=last, key="left")
        own_nats.thaw()
        process.wait_ready()
        answer = post(http, last=last, key="left")
        assert answer.status_code in (200, 201)
        assert last_offset(http) == last + 1


# -- The stream comes and goes ---------------------------------------------------------


def test_a_missing_stream_is_named_and_served_once_it_is_there(
    own_nats: NatsProcess, tmp_path: Path
) -> None:
    with (
        started(tmp_path / "s", nats_url=own_nats.url) as process,
        process.client() as http,
    ):
        wait_until(lambda: "stream does not exist" in reasons(process))
        answer = post(http)
        assert (answer.status_code, answer.json()["code"]) == (503, "stream_missing")
        assert "provision" in answer.json()["remedy"]
        with RawNatsClient(own_nats.port) as operator:
            operator.create("hermes", first_seq=1000)
            process.wait_ready()
            assert post(http, last=999).json()["offset"] == 1000
            operator.delete("hermes")
            wait_until(lambda: "stream does not exist" in reasons(process))
            assert post(http, last=1000).json()["code"] == "stream_missing"


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"storage": "memory"}, "Storage is not file"),
        ({"retention": "interest"}, "Retention is not limits"),
        ({"subjects": ["hermes.base"]}, "Subject hermes.* is missing"),
        ({"max_msgs_per_subject": 5}, "max_msgs_per_subject is set"),
        ({"no_ack": True}, "no_ack is set"),
        ({"allow_direct": False}, "allow_direct is not set"),
        ({"discard": "old", "max_msgs": 5}, "Discard is old"),
        ({"republish": {"src": ">", "dest": "elsewhere.>"}}, "Republish is set"),
        ({"allow_rollup_hdrs": True, "deny_purge": False}, "allow_rollup_hdrs"),
        ({"allow_msg_ttl": True}, "allow_msg_ttl"),
        ({"persist_mode": "async"}, "persist_mode is async"),
        (
            {"subject_transform": {"src": "hermes.*", "dest": "x.{{wildcard(1)}}"}},
            "subject transform",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_unfit_stream_is_a_sentence_and_takes_nothing(
    unfit: tuple[RawNatsClient, SidecarProcess], config: dict[str, Any], words: str
) -> None:
    operator, process = unfit
    made = operator.create("hermes", **config)
    try:
        if "persist_mode" in config and "persist_mode" not in made["config"]:
            pytest.skip("nats-server before 2.12 does not know it")
        wait_until(lambda: words in reasons(process), what=words)
        with process.client() as http:
            answer = post(http)
            assert (answer.status_code, answer.json()["code"]) == (503, "stream_unfit")
            assert answer.json()["outcome"] == "not_stored"
        assert operator.state("hermes")["messages"] == 0
        faults = [row["faults"] for row in process.rows() if row.get("faults")]
        assert any(words in sentence for row in faults for sentence in row)
    finally:
        operator.delete("hermes")
        wait_until(lambda: "does not exist" in reasons(process), what="stream gone")


@pytest.fixture(scope="module")
def unfit(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[RawNatsClient, SidecarProcess]]:
    """One server without a stream, and a sidecar that waits for one."""
    directory = tmp_path_factory.mktemp("unfit")
    with NatsProcess(directory / "nats") as nats:
        wait_jetstream(nats.port)
        with (
            RawNatsClient(nats.port) as operator,
            started(directory / "s", nats_url=nats.url) as process,
        ):
            yield operator, process


def test_a_stream_that_becomes_unfit_while_serving_is_no_longer_written_to(
    own_nats: NatsProcess, tmp_path: Path
) -> None:
    # One connection: what /health says is true of the post that follows.
    with (
        RawNatsClient(own_nats.port) as operator,
        serving(own_nats, tmp_path, role="producer") as (process, http),
    ):
        assert post(http).status_code == 201
        operator.update("hermes", max_msgs_per_subject=5)
        wait_until(lambda: "max_msgs_per_subject" in reasons(process))
        assert post(http).json()["code"] == "stream_unfit"
        operator.update("hermes", max_msgs_per_subject=-1)
        process.wait_ready()
        assert post(http).status_code == 201


def test_a_full_stream_is_not_ready_until_it_takes_events_again(
    own_nats: NatsProcess, tmp_path: Path
) -> None:
    with (
        RawNatsClient(own_nats.port) as operator,
        serving(own_nats, tmp_path) as (process, http),
    ):
        assert post(http).status_code == 201
        operator.update("hermes", max_msgs=1)
        answer = post(http)
        assert (answer.status_code, answer.json()["code"]) == (503, "stream_full")
        assert answer.json()["jetstream_code"] == 10077
        assert "full" in reasons(process)
        operator.update("hermes", max_msgs=-1)
        assert post(http).status_code == 201
        process.wait_ready()


def test_a_stream_made_anew_by_the_sidecar_starts_above_the_old_one(
    own_nats: NatsProcess, tmp_path: Path
) -> None:
    with (
        RawNatsClient(own_nats.port) as operator,
        serving(own_nats, tmp_path) as (_, http),
    ):
        old = post(http).json()["offset"]
        operator.delete("hermes")

        def is_new() -> bool:
            answer = http.get("/v1/stream")
            return answer.is_success and answer.json()["messages"] == 0

        wait_until(is_new, what="a new stream")
        assert last_offset(http) >= old
        answer = post(http, last=old - 1, key="old")
        assert (answer.status_code, answer.json()["code"]) == (410, "offset_gone")


# -- Log -------------------------------------------------------------------------------


def test_an_outage_is_a_bounded_number_of_lines(tmp_path: Path) -> None:
    url = f"nats://127.0.0.1:{free_port()}"
    with (
        started(tmp_path / "s", nats_url=url, log_level="info") as process,
        process.client() as http,
    ):
        ends_at = time.monotonic() + 3
        codes = set()
        while time.monotonic() < ends_at:
            codes.add(post(http).json()["code"])
        assert codes == {"nats_down"}
        assert len(process.rows()) < 20
