# SPDX-License-Identifier: Apache-2.0
"""POST /v1/events: what is stored, byte for byte, and how it is answered."""

from __future__ import annotations

import os
import threading
from base64 import b64decode, b64encode
from typing import TYPE_CHECKING

import pytest
from support.http_api import SECRET, assert_problem, category, headers
from support.jetstream import RawNatsClient
from support.process import wait_until
from support.sidecar import SidecarProcess, event, last_offset, post, sidecar_on

if TYPE_CHECKING:
    from pathlib import Path

    import httpx
    from support.nats import NatsProcess


def stored_text(http: httpx.Client, offset: int) -> str:
    answer = http.get("/v1/events", params={"offset": offset, "limit": 1})
    (row,) = answer.raise_for_status().json()["events"]
    assert row["offset"] == offset
    text: str = row["data"]
    return text


# -- Accepted unchanged ----------------------------------------------------------------


GOOD_BODIES = {
    "NaN": b'{"evcategory": "base", "a": [NaN, Infinity, -Infinity]}',
    "lone surrogates": b'{"evcategory": "base", "a": "\\ud800 \\udfff"}',
    "duplicate keys": b'{"evcategory": "base", "a": 1, "a": 2}',
    "UTF-8": '{"evcategory": "base", "a": "Zoé Dœuff 🦊"}'.encode(),
    "white space": b'\n {"evcategory"\t:"base"}\r\n ',
    "NUL": b'{"evcategory": "base", "a": "\\u0000"}',
    "raw delete character": b'{"evcategory": "base", "a": "\x7f"}',
    "long category": b'{"evcategory": "' + b"c" * 64 + b'"}',
    "big number": b'{"evcategory": "base", "a": 1e999}',
    "photo": event(
        objattrs={"photo": f"HermesBytes({b64encode(os.urandom(5_000_000)).decode()})"}
    ),
}


@pytest.mark.parametrize("body", GOOD_BODIES.values(), ids=GOOD_BODIES)
def test_what_hermes_may_emit_is_stored_byte_for_byte(
    http: httpx.Client, nats: NatsProcess, body: bytes
) -> None:
    last = last_offset(http)
    answer = post(http, body, last)
    assert answer.status_code == 201, answer.text
    assert stored_text(http, last + 1).encode() == body
    with RawNatsClient(nats.port) as operator:
        assert operator.body("hermes", last + 1) == body


# -- POST /v1/events -------------------------------------------------------------------


def test_a_stored_event_is_answered_with_its_offset(http: httpx.Client) -> None:
    last = last_offset(http)
    answer = post(http, event("initsync"), last)
    assert answer.status_code == 201
    assert answer.json() == {
        "offset": last + 1,
        "stream": "hermes",
        "subject": "hermes.initsync",
        "duplicate": False,
    }
    assert answer.headers["etag"] == f'"{last + 1}"'


def test_the_same_request_again_is_answered_as_a_duplicate(http: httpx.Client) -> None:
    last = last_offset(http)
    assert post(http, last=last, key="again").status_code == 201
    assert post(http, last=last + 1).status_code == 201
    answer = post(http, last=last, key="again")
    assert answer.status_code == 200
    assert answer.json()["duplicate"] is True
    assert answer.json()["offset"] == last + 1
    assert answer.headers["etag"] == f'"{last + 1}"'
    assert last_offset(http) == last + 2


def test_the_key_may_be_quoted_as_in_the_draft(http: httpx.Client) -> None:
    last = last_offset(http)
    assert post(http, last=last, key='"quoted"').status_code == 201
    assert post(http, last=last, key="quoted").status_code == 200


def test_another_event_at_the_next_offset_is_named_with_its_key(
    http: httpx.Client,
) -> None:
    last = last_offset(http)
    post(http, last=last, key="theirs")
    document = assert_problem(
        post(http, last=last, key="ours"), 412, "precondition_failed", "not_stored"
    )
    assert document["key"] == "theirs"
    assert document["last_offset"] == last + 1


def test_a_key_with_other_bytes_is_refused(http: httpx.Client) -> None:
    last = last_offset(http)
    post(http, event(objpkey=1), last, "reused")
    answer = post(http, event(objpkey=2), last, "reused")
    assert_problem(answer, 422, "key_reused", "not_stored")
    assert last_offset(http) == last + 1


def test_if_match_star_appends_and_deduplicates(http: httpx.Client) -> None:
    last = last_offset(http)
    first = post(http, key="star")
    assert (first.status_code, first.json()["offset"]) == (201, last + 1)
    assert post(http).json()["offset"] == last + 2
    again = post(http, key="star")
    assert (again.status_code, again.json()["offset"]) == (200, last + 1)
    assert last_offset(http) == last + 2


def test_a_content_type_may_name_its_charset(http: httpx.Client) -> None:
    answer = http.post(
        "/v1/events",
        content=event(),
        headers=headers(Content_Type="Application/JSON; charset=utf-8"),
    )
    assert answer.status_code == 201


def test_type_and_object_type_stand_in_headers_and_no_others_do(
    http: httpx.Client, nats: NatsProcess
) -> None:
    last = last_offset(http)
    answer = http.post(
        "/v1/events",
        content=event(eventtype="modified", objtype="Users"),
        headers=headers(Nats_Trace_Only="true", Nats_Rollup="all", Nats_Msg_Id="x"),
    )
    assert answer.status_code == 201
    with RawNatsClient(nats.port) as operator:
        stored = operator.api("STREAM.MSG.GET.hermes", {"seq": last + 1})["message"]
        assert operator.state("hermes")["last_seq"] == last + 1
    lines = b64decode(stored["hdrs"]).decode().split("\r\n")[1:]
    names = {line.partition(":")[0] for line in lines if line}
    assert names == {
        "Nats-Msg-Id",
        "Nats-Expected-Stream",
        "Nats-Expected-Last-Sequence",
        "Hermes-Event-Type",
        "Hermes-Object-Type",
    }
    assert "Hermes-Event-Type: modified" in lines
    assert "Hermes-Object-Type: Users" in lines


def test_many_requests_with_one_precondition_store_one_event(
    sidecar: SidecarProcess, http: httpx.Client
) -> None:
    last = last_offset(http)
    answers: list[int] = []

    def send(number: int) -> None:
        with sidecar.client() as client:
            answers.append(post(client, event(objpkey=number), last).status_code)

    threads = [threading.Thread(target=send, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [201, *[412] * 7]
    assert last_offset(http) == last + 1


def test_max_event_bytes_lowers_the_limit(nats: NatsProcess, tmp_path: Path) -> None:
    with (
        sidecar_on(nats, tmp_path, max_event_bytes=500) as small,
        small.client() as http,
    ):
        assert post(http, event(objattrs={"a": "x" * 100})).status_code == 201
        answer = post(http, event(objattrs={"a": "x" * 500}))
        document = assert_problem(answer, 413, "event_too_large", "not_stored")
        assert document["limit_bytes"] == 500


def test_no_log_line_holds_a_payload(
    sidecar: SidecarProcess, http: httpx.Client
) -> None:
    last = last_offset(http)
    secret = event(objattrs={"password": SECRET}, objpkey=SECRET)
    post(http, secret, last, key="secret")
    post(http, secret, last, key="other")
    post(http, event(objattrs={"password": SECRET + "2"}), last, key="secret")
    post(http, category(SECRET + "!"))
    post(http, SECRET.encode())
    http.get("/v1/events", params={"offset": SECRET, SECRET: SECRET})
    http.get(f"/{SECRET}")
    wait_until(lambda: any(row["event"] == "refused" for row in sidecar.rows()))
    assert SECRET not in sidecar.output()


def test_a_second_writer_is_logged_with_both_keys_and_warned_of_in_health(
    quiet: SidecarProcess,
) -> None:
    with quiet.client() as http:
        last = last_offset(http)
        post(http, last=last, key="the-first")
        post(http, last=last, key="the-second")
        answer = http.get("/health/ready")
    rows = [row for row in quiet.rows() if row.get("stored_key") == "the-first"]
    assert len(rows) == 1
    assert rows[0]["key"] == "the-second"
    assert answer.status_code == 200
    (writers,) = [c for c in answer.json()["checks"] if c["name"] == "writers"]
    assert writers["status"] == "warn"
