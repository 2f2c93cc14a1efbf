# SPDX-License-Identifier: Apache-2.0
"""Reading from a running sidecar, when the stream or a reader is unwell."""

from __future__ import annotations

import json
import socket
import subprocess
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING

from parts.jetstream import Operator
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

    from parts.nats import NatsProcess


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
        sentence = f"Stream {name}b answers the reads of ours"
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
        SidecarProcess(
            tmp_path / "r",
            nats_url=link.url,
            stream=name,
            subject_prefix=name,
            role="consumer",
        ) as sidecar,
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
