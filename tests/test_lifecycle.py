# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, NamedTuple

import httpx
import pytest
from parts.jetstream import Operator, wait_jetstream
from parts.nats import NatsProcess, free_port
from parts.process import wait_until
from parts.sidecar import SidecarProcess, event, last_offset, post, sidecar_on

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def own_nats(tmp_path: Path) -> Iterator[NatsProcess]:
    """One server that the test may kill."""
    with NatsProcess(tmp_path / "nats") as server:
        wait_jetstream(server.port)
        yield server


@contextmanager
def started(directory: Path, **settings: object) -> Iterator[SidecarProcess]:
    """Start a sidecar that serves but need not be ready."""
    process = SidecarProcess(directory, **settings)
    process.start()
    try:
        yield process.wait_live()
    finally:
        process.stop()


def reasons(process: SidecarProcess) -> str:
    answer = process.health("/health/ready")
    assert answer is not None
    assert (answer.status_code == 200) == (answer.json()["status"] == "ready")
    checks: list[dict[str, Any]] = answer.json()["checks"]
    return " ".join(check["reason"] for check in checks if check["reason"])


@contextmanager
def serving(
    nats: NatsProcess, tmp_path: Path, **settings: object
) -> Iterator[tuple[SidecarProcess, httpx.Client]]:
    """Start a ready sidecar that made the stream `hermes`, and HTTP to it."""
    process = sidecar_on(nats, tmp_path / "s", "hermes", **settings)
    with process, process.client() as http:
        yield process, http


def in_background(call: Callable[[], httpx.Response]) -> Future[httpx.Response]:
    """Run a call in a thread."""
    executor = ThreadPoolExecutor(1)
    future = executor.submit(call)
    executor.shutdown(wait=False)
    return future


class Doubt(NamedTuple):
    """A publish whose copy a frozen NATS does not answer."""

    process: SidecarProcess
    answer: Future[httpx.Response]
    last: int


@contextmanager
def in_doubt(nats: NatsProcess, tmp_path: Path, seconds: float = 10) -> Iterator[Doubt]:
    with serving(nats, tmp_path, publish_timeout_seconds=seconds) as (process, http):
        last = last_offset(http)
        nats.freeze()
        answer = in_background(lambda: post(http, last=last))
        wait_until(
            lambda: "outcome of a publish is not known" in reasons(process),
            what="unknown",
        )
        yield Doubt(process, answer, last)


def is_stopping(process: SidecarProcess) -> bool:
    return any(row["event"] == "stopping" for row in process.rows())


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
        with Operator(own_nats.port) as operator:
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
    unfit: tuple[Operator, SidecarProcess], config: dict[str, Any], words: str
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
) -> Iterator[tuple[Operator, SidecarProcess]]:
    """One server without a stream, and a sidecar that waits for one."""
    directory = tmp_path_factory.mktemp("unfit")
    with NatsProcess(directory / "nats") as nats:
        wait_jetstream(nats.port)
        with (
            Operator(nats.port) as operator,
            started(directory / "s", nats_url=nats.url) as process,
        ):
            yield operator, process


def test_a_stream_that_becomes_unfit_while_serving_is_no_longer_written_to(
    own_nats: NatsProcess, tmp_path: Path
) -> None:
    # One connection: what /health says is true of the post that follows.
    with (
        Operator(own_nats.port) as operator,
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
        Operator(own_nats.port) as operator,
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
        Operator(own_nats.port) as operator,
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


# -- Its end ---------------------------------------------------------------------------


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
        started_at = time.monotonic()
        assert process.terminate() == 0
        assert time.monotonic() - started_at < 5
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
    with Operator(own_nats.port) as operator:
        assert operator.state("hermes")["last_seq"] == last + 1


def test_sigterm_answers_unknown_for_what_cannot_be_resolved(
    own_nats: NatsProcess, tmp_path: Path
) -> None:
    with in_doubt(own_nats, tmp_path, seconds=8) as (process, asked, _):
        status = process.terminate()
        with suppress(httpx.HTTPError):
            answer = asked.result(20)
            assert (answer.status_code, answer.json()["outcome"]) == (504, "unknown")
        own_nats.thaw()
        assert status == 0


def test_a_second_sigterm_exits_at_once(own_nats: NatsProcess, tmp_path: Path) -> None:
    with in_doubt(own_nats, tmp_path, seconds=60) as (process, asked, _):
        process.running.terminate()
        wait_until(lambda: is_stopping(process))
        assert process.is_alive
        started_at = time.monotonic()
        assert process.terminate() != 0
        assert time.monotonic() - started_at < 2
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


# -- TCP -------------------------------------------------------------------------------


def tcp(process: SidecarProcess, host: str = "127.0.0.1", token: str = "") -> Any:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return httpx.Client(
        base_url=f"http://{host}:{process.tcp_port}", headers=headers, trust_env=False
    )


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
@pytest.mark.parametrize("path", ["/health", "/health/live", "/health/ready"])
def test_health_is_served_over_tcp_by_address_and_by_name(
    sidecar: SidecarProcess, host: str, path: str
) -> None:
    with tcp(sidecar, host) as http:
        answer = http.get(path)
        assert answer.status_code == 200
        assert answer.json()["status"] in ("ready", "live")


def test_the_api_over_tcp_is_off_by_default(sidecar: SidecarProcess) -> None:
    with tcp(sidecar) as http:
        for answer in (
            post(http),
            http.get("/v1/events"),
            http.get("/v1/stream"),
            http.get("//v1/stream"),
            http.get("/v1/nothing"),
        ):
            assert answer.status_code in (403, 404)
            assert answer.json()["code"] in ("api_off", "not_found")
        assert post(http).json()["code"] == "api_off"


def test_the_api_over_tcp_with_a_token_wants_that_token(
    nats: NatsProcess, tmp_path: Path
) -> None:
    token_file = tmp_path / "token"
    token_file.write_text("c0rrect-horse\n")
    with sidecar_on(nats, tmp_path / "s", token_file=token_file) as process:
        with tcp(process) as http:
            answer = post(http)
            assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized")
            assert answer.headers["www-authenticate"] == "Bearer"
            assert http.get("/health").status_code == 200
        with tcp(process, token="wrong") as http:
            assert post(http).status_code == 401
            assert http.get("/v1/stream").status_code == 401
        with tcp(process, token="c0rrect-horse") as http:
            assert post(http).status_code == 201
            assert http.get("/v1/events").status_code == 200
            token_file.write_text("changed")
            assert post(http).status_code == 401
        with process.client() as http:
            assert post(http).status_code == 201  # the Unix socket needs none
        assert "c0rrect" not in process.output()


def test_the_api_over_tcp_can_be_open(nats: NatsProcess, tmp_path: Path) -> None:
    with (
        sidecar_on(nats, tmp_path / "s", tcp_api="open") as process,
        tcp(process) as http,
    ):
        assert post(http).status_code == 201


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
