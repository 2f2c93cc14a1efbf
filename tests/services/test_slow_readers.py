# SPDX-License-Identifier: Apache-2.0
"""Readers that are slow, pause or leave, and what they cost."""

from __future__ import annotations

import json
import os
import socket
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

from support.jetstream import wait_jetstream
from support.nats import NatsProcess
from support.process import memory_kib, wait_until
from support.sidecar import (
    SidecarProcess,
    event,
    post,
    sidecar_on,
)
from support.slow_link import SlowLink

if TYPE_CHECKING:
    from pathlib import Path

    import httpx


def reader_over(link: SlowLink, name: str, directory: Path) -> SidecarProcess:
    """Make a sidecar that reads a stream over a slow link."""
    return SidecarProcess(
        directory, nats_url=link.url, stream=name, subject_prefix=name, role="consumer"
    )


def test_over_a_slow_link_a_large_event_arrives_at_the_first_try(
    nats: NatsProcess, tmp_path: Path
) -> None:
    """No silence on the way is longer than the plugin's patience, nor ours."""
    name, size = f"l{uuid.uuid4().hex[:12]}", 500_000
    with sidecar_on(nats, tmp_path / "w", name) as writer, writer.client() as http:
        first = post(http, event(objattrs={"photo": "x" * size})).json()["offset"]
        post(http)
    with (
        SlowLink(nats.port, 100_000) as link,
        reader_over(link, name, tmp_path / "r") as sidecar,
        sidecar.client() as http,
        sidecar.client() as other,
    ):
        silences, slow, text = [], [], b""
        with http.stream("GET", f"/v1/events?offset={first}") as answer:
            began = time.monotonic()
            for piece in answer.iter_raw():
                silences.append(time.monotonic() - began)
                began = time.monotonic()
                text += piece
                slow.append("is slow" in other.get("/health").text)
        page = json.loads(text)
        assert [row["offset"] for row in page["events"]] == [first, first + 1]
        assert text.startswith(b" ")
        assert any(slow)
        assert max(silences) < 4
        assert link.sent_bytes < 1.3 * size
        assert "nats_reconnected" not in [row["event"] for row in sidecar.rows()]


def test_four_clients_that_catch_up_over_one_slow_link_waste_little_of_it(
    nats: NatsProcess, tmp_path: Path
) -> None:
    """What comes over the link is counted; how long that takes is the link's doing."""
    name, count, size = f"l{uuid.uuid4().hex[:12]}", 20, 20_000
    with sidecar_on(nats, tmp_path / "w", name) as writer, writer.client() as http:
        body = event(objattrs={"photo": "x" * size})
        first = min(post(http, body).json()["offset"] for _ in range(count))
    with (
        SlowLink(nats.port, 375_000) as link,  # 3 Mbit/s
        reader_over(link, name, tmp_path / "r") as sidecar,
        ThreadPoolExecutor(4) as pool,
    ):

        def catch_up(_: int) -> list[int]:
            found: list[int] = []
            offset = first
            with sidecar.client(60) as http:
                while len(found) < count:
                    path = f"/v1/events?offset={offset}&max_bytes=262144&wait=5"
                    answer = http.get(path)
                    assert answer.status_code == 200, answer.text[:300]
                    found += [row["offset"] for row in answer.json()["events"]]
                    offset = answer.json()["next_offset"]
            return found

        wanted = [*range(first, first + count)]
        assert list(pool.map(catch_up, range(4))) == [wanted] * 4
        assert link.sent_bytes < 1.3 * 4 * count * size


def test_readers_that_stall_cost_bounded_memory_and_no_publish(
    nats: NatsProcess, tmp_path: Path
) -> None:
    request = b"GET /v1/events?offset=first&limit=5000 HTTP/1.1\r\nHost: x\r\n\r\n"
    with (
        sidecar_on(nats, tmp_path / "stalled") as sidecar,
        sidecar.client() as http,
        ExitStack() as stack,
    ):
        for _ in range(6):
            post(http, event(objattrs={"photo": "x" * 1_000_000}))
        answers = []
        for _ in range(40):
            reader = stack.enter_context(socket.socket(socket.AF_UNIX))
            reader.settimeout(30)
            reader.connect(str(sidecar.socket))
            reader.sendall(request)
            answers.append(reader.recv(12, socket.MSG_WAITALL))
        assert {b"HTTP/1.1 200", b"HTTP/1.1 429"} == set(answers)
        assert post(http).status_code == 201
        assert memory_kib(sidecar.running.pid) < 400_000
        stack.close()  # what they held is free again
        wait_until(lambda: http.get("/v1/events").status_code == 200, what="room")


PAGE = b"GET /v1/events?offset=first&max_bytes=4000000 HTTP/1.1\r\nHost: x\r\n\r\n"


def stalled(sidecar: SidecarProcess) -> socket.socket:
    """Ask for a page, and take nothing but its beginning."""
    reader = socket.socket(socket.AF_UNIX)
    reader.settimeout(30)
    reader.connect(str(sidecar.socket))
    reader.sendall(PAGE)
    assert reader.recv(12, socket.MSG_WAITALL) == b"HTTP/1.1 200"
    return reader


def fill(http: httpx.Client) -> None:
    for _ in range(3):
        assert post(http, event(objattrs={"photo": "x" * 900_000})).status_code == 201


def test_a_reader_that_does_not_read_does_not_hold_up_a_stop(
    nats: NatsProcess, tmp_path: Path
) -> None:
    with sidecar_on(nats, tmp_path / "stop") as sidecar:
        with sidecar.client() as http:
            fill(http)
        with stalled(sidecar):
            started_at = time.monotonic()
            assert sidecar.terminate() == 0
            assert time.monotonic() - started_at < 5
        assert not [row for row in sidecar.rows() if row["level"] == "error"]


def test_what_a_paused_reader_does_not_take_is_given_back_and_a_slow_one_goes_on(
    nats: NatsProcess, tmp_path: Path
) -> None:
    with sidecar_on(nats, tmp_path / "paused") as sidecar, sidecar.client() as http:
        fill(http)
        with stalled(sidecar) as paused, stalled(sidecar) as slow:
            for _ in range(24):  # of 2,700,000 bytes
                time.sleep(0.5)
                assert slow.recv(10_000)
            left = [read_all(paused), read_all(slow)]
    assert left[0] < 1_000_000
    assert left[1] > 2_700_000 - 24 * 10_000 - 12


def read_all(reader: socket.socket) -> int:
    """Count what comes before its end, or until a second passes without a byte."""
    reader.settimeout(1)
    count = 0
    with suppress(TimeoutError, ConnectionError):
        while piece := reader.recv(65_536):
            count += len(piece)
    return count


def test_large_events_do_not_cut_the_reading_connection(tmp_path: Path) -> None:
    """nats-server ends a connection that has 64 MB to take (case 26)."""
    with NatsProcess(tmp_path / "nats", extra="max_payload: 32MB") as own:
        wait_jetstream(own.port)
        with sidecar_on(own, tmp_path / "s") as sidecar, sidecar.client() as http:
            large = event(objattrs={"photo": "x" * 20_000_000})
            offset = post(http, large).json()["offset"]
            path = f"/v1/events?offset={offset}&max_bytes=262144"

            def read(_: int) -> int:
                with sidecar.client() as reader:
                    while (answer := reader.get(path)).status_code == 429:
                        time.sleep(0.2)  # what others have not taken yet
                    return answer.status_code

            with ThreadPoolExecutor(6) as pool:
                assert set(pool.map(read, range(6))) == {200}
            events = [row["event"] for row in sidecar.rows()]
            assert "nats_down" not in events
            assert "jetstream_unavailable" not in events


def test_who_holds_the_room_is_named(nats: NatsProcess, tmp_path: Path) -> None:
    with (
        sidecar_on(nats, tmp_path / "room") as sidecar,
        sidecar.client() as http,
        ExitStack() as stack,
    ):
        fill(http)
        for _ in range(30):
            reader = stack.enter_context(socket.socket(socket.AF_UNIX))
            reader.settimeout(30)
            reader.connect(str(sidecar.socket))
            reader.sendall(PAGE)
            reader.recv(12, socket.MSG_WAITALL)
        health = sidecar.health()
        assert health is not None
        assert health.status_code == 200
        (room,) = [one for one in health.json()["checks"] if one["name"] == "room"]
        assert room["status"] == "warn"
        assert f"process {os.getpid()} at the Unix socket held " in room["reason"]
