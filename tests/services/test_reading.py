# SPDX-License-Identifier: Apache-2.0
"""Reading from a running sidecar, when the stream is unwell."""

from __future__ import annotations

import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from support.commands import run_here
from support.jetstream import RawNatsClient
from support.process import wait_until
from support.sidecar import SidecarProcess, event, post, sidecar_on

if TYPE_CHECKING:
    from pathlib import Path

    from support.nats import NatsProcess


@pytest.mark.parametrize("is_of_batch", [False, True])
def test_a_displaced_event_is_an_error_that_names_its_offset(
    nats: NatsProcess, tmp_path: Path, is_of_batch: bool
) -> None:
    """Of a header said twice the server heeds the first, and we read the last.

    Of the header in an atomic batch it knows nothing.
    """
    name = f"d{uuid.uuid4().hex[:12]}"
    with (
        sidecar_on(nats, tmp_path / "displaced", name) as sidecar,
        sidecar.client() as http,
        RawNatsClient(nats.port) as operator,
    ):
        good = post(http).json()["offset"]
        twice = {
            "Nats-Expected-Last-Sequence": f"{good}\r\nNats-Expected-Last-Sequence: 7"
        }
        if is_of_batch:
            twice = {"Hermes-Expected-Last-Sequence": "7"}
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
        RawNatsClient(nats.port) as operator,
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
        RawNatsClient(nats.port) as operator,
    ):
        first = post(http).json()["offset"]
        mirror = {"name": f"{name}b", "mirror": {"name": name}, "storage": "file"}
        made = operator.api(f"STREAM.CREATE.{name}b", mirror)
        assert made["config"]["mirror_direct"]
        wait_until(lambda: operator.state(f"{name}b")["messages"] == 1, what="mirrored")
        sentence = f"Stream {name}b answers direct gets in place"
        settings = {"nats_url": nats.url, "stream": name, "subject_prefix": name}
        for command in ("check", "provision"):
            ran = run_here(command, **settings)
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
        wait_until(lambda: run_here("check", **settings).returncode == 0)


def test_a_copy_that_lacks_a_category_does_not_end_it(
    nats: NatsProcess, tmp_path: Path
) -> None:
    """A mirror answers direct gets, too, and this one holds no initsync."""
    name = f"m{uuid.uuid4().hex[:12]}"
    with (
        sidecar_on(nats, tmp_path / "mirrored", name) as sidecar,
        sidecar.client() as http,
        RawNatsClient(nats.port) as operator,
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


def test_a_mirror_is_read_and_never_says_where_the_stream_ends(
    nats: NatsProcess, tmp_path: Path
) -> None:
    name = f"m{uuid.uuid4().hex[:12]}"
    with (
        sidecar_on(nats, tmp_path / "origin", name) as origin,
        origin.client() as http,
        RawNatsClient(nats.port) as operator,
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
        RawNatsClient(nats.port) as operator,
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
