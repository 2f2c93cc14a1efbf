# SPDX-License-Identifier: Apache-2.0
"""Reading from a running sidecar, when the stream or a reader is unwell."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

from parts.jetstream import Operator, wait_jetstream
from parts.nats import NatsProcess
from parts.process import memory_kib, wait_until
from parts.sidecar import (
    COMMAND,
    SidecarProcess,
    environment,
    event,
    post,
    sidecar_on,
)
from parts.slow_link import SlowLink

if TYPE_CHECKING:
    from pathlib import Path

    import httpx


def test_a_displaced_event_is_an_error_that_names_its_offset(
    nats: NatsProcess, tmp_path: Path
) -> None:
    """Of a header said twice the server heeds the first, and we read the last."""
    name = f"d{uuid.uuid4().hex[:12]}"
    with (
        sidecar_on(nats, tmp_path / "displaced", name) as sidecar,
        sidecar.client() as http,
        Operator(nats.port) as operator,
    ):
        good = post(http).json()["offset"]
        twice = {
            "Nats-Expected-Last-Sequence": f"{good}\r\nNats-Expected-Last-Sequence: 7"
        }
        wrong = operator.publish(f"{name}.base", event(), twice)
        page = http.get("/v1/events").json()
        assert [row["offset"] for row in page["events"]] == [good]
        for query in (f"offset={wrong}", f"offset={wrong}&category=base"):
            answer = http.get(f"/v1/events?{query}")
            assert (answer.status_code, answer.json()["code"]) == (503, "displaced")
            assert answer.json()["offset"] == wrong


def test_one_bad_message_hides_no_event_before_it_and_is_named(
    nats: NatsProcess, tmp_path: Path
) -> None:
    name = f"u{uuid.uuid4().hex[:12]}"
    with (
        sidecar_on(nats, tmp_path / "unreadable", name) as sidecar,
        sidecar.client() as http,
        Operator(nats.port) as operator,
    ):
        good = [post(http).json()["offset"] for _ in range(3)]
        operator.publish_bytes(name.encode() + b".\xe9t\xe9", b"{}")
        wait_until(lambda: operator.state(name)["messages"] == 4, what="stored")
        for query in ("offset=first", f"offset={good[0]}&category=base"):
            page = http.get(f"/v1/events?{query}").json()
            assert [row["offset"] for row in page["events"]] == good
        answer = http.get(f"/v1/events?offset={page['next_offset']}")
        assert (answer.status_code, answer.json()["code"]) == (503, "unreadable")
        health = http.get("/health").text
        assert f"Readers stop at offset {answer.json()['offset']}: " in health
        assert answer.json()["offset"] == good[-1] + 1
        after = post(http).json()["offset"]
        page = http.get(f"/v1/events?offset={good[-1] + 1}&category=base").json()
        assert [row["offset"] for row in page["events"]] == [after]


def test_a_category_ends_where_the_leader_says_so(
    nats: NatsProcess, tmp_path: Path
) -> None:
    with sidecar_on(nats, tmp_path / "end") as sidecar, sidecar.client() as http:
        first = post(http).json()["offset"]
        last = post(http).json()["offset"]
        query = "category=initsync&offset"
        for offset in ("first", first, last, last + 1):
            page = http.get(f"/v1/events?{query}={offset}").json()
            assert page["events"] == []
            assert page["next_offset"] == page["last_offset"] + 1 == last + 1
        page = http.get(f"/v1/events?{query}={first}&wait=0.5").json()
        assert (page["events"], page["next_offset"]) == ([], last + 1)
        found = post(http, event("initsync")).json()["offset"]
        page = http.get(f"/v1/events?{query}={first}").json()
        assert [row["offset"] for row in page["events"]] == [found]


def test_a_waiting_reader_of_a_category_is_given_what_comes(
    nats: NatsProcess, tmp_path: Path
) -> None:
    with sidecar_on(nats, tmp_path / "wait") as sidecar, sidecar.client() as http:
        first = post(http).json()["offset"]
        with ThreadPoolExecutor(1) as pool, sidecar.client() as reader:
            path = f"/v1/events?category=initsync&offset={first}&wait=20"
            waiting = pool.submit(reader.get, path)
            wait_until(lambda: "readers_waiting 1.0" in http.get("/metrics").text)
            post(http)
            wanted = post(http, event("initsync")).json()["offset"]
            rows = waiting.result().json()["events"]
        assert [row["offset"] for row in rows] == [wanted]


def test_a_mirror_that_answers_reads_is_named_by_health_and_commands(
    nats: NatsProcess, tmp_path: Path
) -> None:
    name = f"n{uuid.uuid4().hex[:12]}"
    with (
        sidecar_on(nats, tmp_path / "named", name) as sidecar,
        sidecar.client() as http,
        Operator(nats.port) as operator,
    ):
        first = post(http).json()["offset"]
        mirror = {"name": f"{name}b", "mirror": {"name": name}, "storage": "file"}
        made = operator.api(f"STREAM.CREATE.{name}b", mirror)
        assert made["config"]["mirror_direct"]
        wait_until(lambda: operator.state(f"{name}b")["messages"] == 1, what="mirrored")
        sentence = f"Stream {name}b answers direct gets in place"
        settings = {"nats_url": nats.url, "stream": name, "subject_prefix": name}
        for command in ("check", "provision"):
            ran = subprocess.run(
                [*COMMAND, command],
                env=environment(**settings),
                capture_output=True,
                text=True,
                check=False,
            )
            assert sentence in ran.stdout + ran.stderr
            assert ran.returncode != 0

        def is_told() -> bool:
            page = http.get(f"/v1/events?offset={first}").json()
            assert [row["offset"] for row in page["events"]] == [first]
            return sentence in http.get("/health").text

        wait_until(is_told)
        assert http.get("/health").status_code == 200
        # As docs/nats.md says: nobody can take that from a plain mirror; a source
        # with the same first sequence has the same offsets and answers no reads.
        changed = operator.update(f"{name}b", mirror_direct=False)
        assert changed["config"]["mirror_direct"]
        operator.delete(f"{name}b")
        copy = {"name": f"{name}c", "sources": [{"name": name}], "storage": "file"}
        operator.api(f"STREAM.CREATE.{name}c", copy | {"first_seq": first})
        wait_until(lambda: operator.state(f"{name}c")["messages"] == 1, what="copied")
        assert operator.state(f"{name}c")["last_seq"] == first
        wait_until(
            lambda: (
                not subprocess.run(
                    [*COMMAND, "check"], env=environment(**settings), check=False
                ).returncode
            )
        )


def test_a_copy_that_lacks_a_category_does_not_end_it(
    nats: NatsProcess, tmp_path: Path
) -> None:
    """A mirror answers direct gets, too, and this one holds no initsync."""
    name = f"m{uuid.uuid4().hex[:12]}"
    with (
        sidecar_on(nats, tmp_path / "mirrored", name) as sidecar,
        sidecar.client() as http,
        Operator(nats.port) as operator,
    ):
        first = post(http).json()["offset"]
        wanted = post(http, event("initsync")).json()["offset"]
        post(http)
        mirror = {"name": name, "filter_subject": f"{name}.base"}
        made = {"name": f"{name}b", "mirror": mirror, "storage": "file"}
        operator.api(f"STREAM.CREATE.{name}b", made)
        wait_until(lambda: operator.state(f"{name}b")["messages"] == 2, what="mirrored")
        post(http)  # from its first live message on it answers
        wait_until(lambda: operator.state(f"{name}b")["messages"] == 3, what="mirrored")
        found = 0
        for _ in range(60):
            page = http.get(f"/v1/events?category=initsync&offset={first}").json()
            if page["events"]:
                assert page["events"][0]["offset"] == wanted
                found += 1
            else:
                assert page["next_offset"] == first
        assert found


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


def test_a_mirror_is_read_and_never_says_where_the_stream_ends(
    nats: NatsProcess, tmp_path: Path
) -> None:
    name = f"m{uuid.uuid4().hex[:12]}"
    with (
        sidecar_on(nats, tmp_path / "origin", name) as origin,
        origin.client() as http,
        Operator(nats.port) as operator,
    ):
        offsets = [post(http).json()["offset"] for _ in range(3)]
        made = {"storage": "file", "allow_direct": True, "mirror": {"name": name}}
        operator.api(f"STREAM.CREATE.{name}b", {"name": f"{name}b"} | made)
        wait_until(lambda: operator.state(f"{name}b")["messages"] == 3, what="mirrored")
        settings = {"role": "consumer", "subject_prefix": name}
        with (
            SidecarProcess(
                tmp_path / "site", nats_url=nats.url, stream=f"{name}b", **settings
            ) as site,
            site.client() as reader,
        ):
            page = reader.get(f"/v1/events?offset={offsets[0]}").json()
            assert [row["offset"] for row in page["events"]] == offsets
            page = reader.get(f"/v1/events?category=initsync&offset={offsets[0]}")
            assert page.json()["next_offset"] == offsets[-1] + 1
            ends_at = time.monotonic() + 7  # after 5 s a stream's own leader says it
            while time.monotonic() < ends_at:
                answer = reader.get(f"/v1/events?offset={offsets[-1] + 5}")
                assert (answer.status_code, answer.json()["code"]) == (
                    503,
                    "jetstream_unavailable",
                )
                time.sleep(0.5)


def test_a_sealed_stream_is_read_by_every_role_that_reads(
    nats: NatsProcess, tmp_path: Path
) -> None:
    name = f"s{uuid.uuid4().hex[:12]}"
    with (
        sidecar_on(nats, tmp_path / "both", name) as both,
        both.client() as http,
        Operator(nats.port) as operator,
    ):
        offset = post(http).json()["offset"]
        operator.update(name, sealed=True)
        wait_until(lambda: post(http).status_code == 503, what="sealed")
        assert http.get("/v1/events?offset=first").json()["events"]
        assert http.get(f"/v1/events?offset={offset}").status_code == 200
        health = both.health()
        assert health is not None
        assert "The stream is sealed" in health.text
        settings = {"role": "consumer", "stream": name, "subject_prefix": name}
        with SidecarProcess(tmp_path / "one", nats_url=nats.url, **settings) as reads:
            reads.wait_ready()
            with reads.client() as reader:
                assert reader.get("/v1/events?offset=first").json()["events"]


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
