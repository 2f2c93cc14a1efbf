# SPDX-License-Identifier: Apache-2.0
"""POST /v1/events with application/json-seq: what is stored, and what is refused."""

from __future__ import annotations

import json
import threading
from base64 import b64decode
from typing import TYPE_CHECKING, Any

import pytest
from support.http_api import SECRET, assert_problem
from support.jetstream import RawNatsClient
from support.process import wait_until
from support.sidecar import (
    SidecarProcess,
    event,
    last_offset,
    plugin_key,
    post,
    post_batch,
    sequence,
    sidecar_on,
)

from sidecar.model.batch import MAX_BYTES, MAX_EVENTS

if TYPE_CHECKING:
    from pathlib import Path

    import httpx
    from support.nats import NatsProcess


def added(pkey: object, **of: object) -> bytes:
    return event("initsync", objpkey=pkey, **of)


def stored_from(http: httpx.Client, offset: int) -> list[dict[str, Any]]:
    """Give every event from an offset on."""
    answer = http.get("/v1/events", params={"offset": offset, "limit": 2000})
    rows: list[dict[str, Any]] = answer.raise_for_status().json()["events"]
    return rows


def headers_at(nats: NatsProcess, offset: int) -> dict[str, str]:
    with RawNatsClient(nats.port) as operator:
        stored = operator.api("STREAM.MSG.GET.hermes", {"seq": offset})["message"]
    lines = b64decode(stored["hdrs"]).decode().split("\r\n")[1:]
    return dict(line.split(": ", 1) for line in lines if line)


def published(http: httpx.Client, result: str) -> float:
    name = f'events_published_total{{category="initsync",result="{result}"}}'
    lines = http.get("/metrics").text.splitlines()
    (line,) = [each for each in lines if name in each]
    return float(line.split()[-1])


# -- What is stored --------------------------------------------------------------------


def test_events_are_stored_in_order_byte_for_byte(http: httpx.Client) -> None:
    texts = [
        added(1),
        b' \n{"evcategory":"initsync","eventtype":"added","a":[NaN,"\\ud800"]}\r\n ',
        added(3, objattrs={"name": "Zo\u00e9 \U0001f98a", "separator": "\x1e"}),
        added(1),
    ]
    last = last_offset(http)
    answer = post_batch(http, sequence(*texts), last, "order")
    assert answer.status_code == 201, answer.text
    assert answer.json() == {
        "offset": last + 4,
        "stream": "hermes",
        "subject": "hermes.initsync",
        "duplicate": False,
    }
    assert answer.headers["etag"] == f'"{last + 4}"'
    rows = stored_from(http, last + 1)
    assert [row["offset"] for row in rows] == list(range(last + 1, last + 5))
    assert [row["data"].encode() for row in rows] == texts


def test_the_same_request_again_is_answered_the_same(http: httpx.Client) -> None:
    last = last_offset(http)
    body = sequence(*map(added, range(20)))
    first = post_batch(http, body, last, "again")
    post(http, last=last + 20)
    again = post_batch(http, body, last, "again")
    assert (first.status_code, again.status_code) == (201, 200)
    assert again.json() == first.json() | {"duplicate": True}
    assert again.headers["etag"] == first.headers["etag"]
    assert last_offset(http) == last + 21


def test_each_message_has_a_key_and_the_state_of_the_scan(
    http: httpx.Client, nats: NatsProcess
) -> None:
    start = last_offset(http) + 1
    post(http, event("initsync", eventtype="init-start"), start - 1)
    assert post_batch(http, sequence(added(1), added(2)), start, "scan").is_success
    post(http, event("initsync", eventtype="init-stop"), start + 2)
    for index in (1, 2):
        found = headers_at(nats, start + index)
        assert found["Nats-Msg-Id"] == f"scan.{index}"
        assert found["Nats-Expected-Last-Sequence"] == str(start + index - 1)
        assert found["Hermes-Initsync"].startswith(f"open={start},{index}")
        assert found["Hermes-Event-Type"] == "added"
    assert headers_at(nats, start + 3)["Hermes-Initsync"] == (
        f"last={start}-{start + 3},2"
    )
    document = http.get("/v1/stream").json()["last_complete_initsync"]
    assert (document["start_offset"], document["objects"]) == (start, 2)


def test_the_most_events_in_the_most_bytes_are_stored(http: httpx.Client) -> None:
    last = last_offset(http)
    texts = list(map(added, range(MAX_EVENTS)))
    size_bytes = len(sequence(*texts))
    texts[-1] += b" " * (MAX_BYTES - size_bytes)
    answer = post_batch(http, sequence(*texts), last)
    assert (answer.status_code, answer.headers["etag"]) == (
        201,
        f'"{last + MAX_EVENTS}"',
    )
    rows = stored_from(http, last + 1)
    assert [row["data"].encode() for row in rows] == texts


@pytest.mark.parametrize("connection", ["keep-alive", "close"])
def test_who_prefers_little_gets_the_entity_tag_alone(
    http: httpx.Client, connection: str
) -> None:
    """In one piece it is served directly, at the end of a connection by uvicorn."""
    last = last_offset(http)
    for status in (201, 200):
        answer = http.post(
            "/v1/events",
            content=sequence(added(1), added(2)),
            headers={
                "Content-Type": "Application/JSON-seq; charset=utf-8",
                "Idempotency-Key": f"little-{connection}",
                "If-Match": f'"{last}"',
                "Prefer": "return=minimal, wait=15",
                "Connection": connection,
            },
        )
        assert (answer.status_code, answer.content) == (status, b"")
        assert answer.headers["etag"] == f'"{last + 2}"'


def test_events_are_counted_and_not_requests(quiet: SidecarProcess) -> None:
    with quiet.client() as http:
        last = last_offset(http)
        body = sequence(added(1), added(2), added(3))
        post_batch(http, body, last, "count")
        assert (published(http, "stored"), published(http, "duplicate")) == (3, 0)
        post_batch(http, body, last, "count")
        assert (published(http, "stored"), published(http, "duplicate")) == (3, 3)
        post_batch(http, body, last, "another")
        assert published(http, "not_stored") == 1
    rows = [row for row in quiet.rows() if row["event"] == "stored"]
    assert [row["offset"] - last for row in rows] == [1, 2, 3, 1, 2, 3]


# -- What is refused -------------------------------------------------------------------


BAD_BODIES = {
    "empty": (b"", "not_a_batch", None),
    "no sequence": (added(1), "not_a_batch", None),
    "one too many": (sequence(*[b"{}"] * (MAX_EVENTS + 1)), "not_a_batch", None),
    "one byte too many": (
        sequence(added(1) + b" " * (MAX_BYTES - len(added(1)) - 1)),
        "not_a_batch",
        None,
    ),
    "cut": (sequence(added(1), added(2))[:-1], "not_a_batch", 2),
    "base in the middle": (sequence(added(1), event(), added(2)), "not_a_batch", 2),
    "init-start in the middle": (
        sequence(added(1), event("initsync", eventtype="init-start"), added(2)),
        "not_a_batch",
        2,
    ),
    "init-stop at the end": (
        sequence(added(1), event("initsync", eventtype="init-stop")),
        "not_a_batch",
        2,
    ),
    "no JSON at the end": (sequence(added(1), SECRET.encode()), "malformed_json", 2),
    "empty text": (sequence(b"", added(1)), "malformed_json", 1),
    "illegal category": (sequence(event(SECRET + "!")), "illegal_category", 1),
}


@pytest.mark.parametrize(
    ("body", "code", "index"), BAD_BODIES.values(), ids=list(BAD_BODIES)
)
def test_nothing_of_a_batch_is_stored_of_which_one_event_is_refused(
    http: httpx.Client, body: bytes, code: str, index: int | None
) -> None:
    last = last_offset(http)
    status = 400 if code == "malformed_json" else 422
    document = assert_problem(post_batch(http, body, last), status, code, "not_stored")
    assert document.get("index") == index
    assert last_offset(http) == last


def test_a_batch_appends_after_no_star(http: httpx.Client) -> None:
    last = last_offset(http)
    answer = post_batch(http, sequence(added(1)), "*")
    assert_problem(answer, 422, "not_a_batch", "not_stored")
    assert last_offset(http) == last


@pytest.mark.parametrize("changes", [{"If-Match": ""}, {"Idempotency-Key": ""}])
def test_a_batch_needs_what_one_event_needs(
    http: httpx.Client, changes: dict[str, str]
) -> None:
    headers = {
        "Content-Type": "application/json-seq",
        "Idempotency-Key": "k",
        "If-Match": '"1"',
    }
    answer = http.post(
        "/v1/events", content=sequence(added(1)), headers=headers | changes
    )
    assert answer.status_code == 400


def test_another_event_in_its_place_is_named_with_the_index(
    http: httpx.Client,
) -> None:
    last = last_offset(http)
    texts = [added(1), added(2), added(3)]
    post(http, texts[0], last, "taken.1")
    post(http, last=last + 1, key="theirs")
    answer = post_batch(http, sequence(*texts), last, "taken")
    document = assert_problem(answer, 412, "precondition_failed", "not_stored")
    assert (document["index"], document["offset"], document["key"]) == (
        2,
        last + 2,
        "theirs",
    )
    assert last_offset(http) == last + 2


@pytest.mark.parametrize("index", [1, 2, 5])
def test_other_bytes_under_the_same_key_are_named_with_the_index(
    http: httpx.Client, index: int
) -> None:
    last = last_offset(http)
    texts = list(map(added, range(5)))
    assert post_batch(http, sequence(*texts), last, f"reused-{index}").is_success
    texts[index - 1] = added(99)
    answer = post_batch(http, sequence(*texts), last, f"reused-{index}")
    document = assert_problem(answer, 422, "key_reused", "not_stored")
    assert (document["index"], document["offset"]) == (index, last + index)
    assert last_offset(http) == last + 5


def test_an_event_over_the_limit_is_named_with_its_index_and_its_size(
    nats: NatsProcess, tmp_path: Path
) -> None:
    with (
        sidecar_on(nats, tmp_path, max_event_bytes=500) as small,
        small.client() as http,
    ):
        last = last_offset(http)
        large = added(11, objattrs={"a": "x" * 500})
        body = sequence(*map(added, range(10)), large)
        document = assert_problem(
            post_batch(http, body, last), 413, "event_too_large", "not_stored"
        )
        assert (document["index"], document["limit_bytes"]) == (11, 500)
        assert document["size_bytes"] == len(large)
        assert last_offset(http) == last


def test_headers_count_for_the_limit_of_each_event(
    nats: NatsProcess, tmp_path: Path
) -> None:
    with RawNatsClient(nats.port) as operator:
        operator.create("small", max_msg_size=600)
    with sidecar_on(nats, tmp_path, "small") as process, process.client() as http:
        last = last_offset(http)
        start = event("initsync", eventtype="init-start")
        assert post(http, start, last).status_code == 201
        fits = added(1, objattrs={"a": ""})
        over = fits.replace(b'"a": ""', b'"a": "%s"' % (b"x" * (590 - len(fits))))
        assert len(over) == 590  # and its headers are longer than 10 bytes
        answer = post_batch(http, sequence(fits, over, fits), last + 1)
        document = assert_problem(answer, 413, "event_too_large", "not_stored")
        assert (document["index"], document["limit_bytes"]) == (2, 600)
        assert document["size_bytes"] > 690
        assert last_offset(http) == last + 2  # those before it are stored


# -- What is remembered of it ----------------------------------------------------------


def test_the_object_of_the_refused_event_blocks_hermes_until_it_is_stored(
    nats: NatsProcess, tmp_path: Path
) -> None:
    large = added(2, objtype="Groups", objattrs={"a": "x" * 500})
    with (
        sidecar_on(nats, tmp_path, max_event_bytes=500) as small,
        small.client() as http,
    ):
        last = last_offset(http)
        body = sequence(added(1), large, added(3))
        for count in (1, 1, 2):  # a repetition is no second try
            answer = post_batch(http, body, last, plugin_key(count))
            assert_problem(answer, 413, "event_too_large", "not_stored")
        health = http.get("/health")
        assert health.status_code == 503
        assert "Hermes is blocked: The event is larger" in health.text
        assert "The event's type is Groups, its category initsync." in health.text
        post_batch(http, sequence(added(1)), last, plugin_key(3))
        assert http.get("/health").status_code == 503
        small_one = added(2, objtype="Groups")
        post_batch(http, sequence(small_one), last + 1, plugin_key(4))
        assert http.get("/health").status_code == 200


@pytest.mark.parametrize("way", ["keep-alive", "close"])
def test_one_that_is_refused_unread_is_remembered_by_its_first_object(
    own_nats: NatsProcess, tmp_path: Path, way: str
) -> None:
    with sidecar_on(own_nats, tmp_path) as process, process.client() as http:
        last = last_offset(http)
        own_nats.kill()
        wait_until(lambda: post(http, last=last).json()["code"] == "nats_down")
        http.headers["Connection"] = way
        for count in (1, 2):
            answer = post_batch(http, sequence(added(1)), last, plugin_key(count))
            assert_problem(answer, 503, "nats_down", "not_stored")
        health = http.get("/health").text
        assert "Hermes is blocked: There is no connection to NATS." in health
        assert "The event's type is Users, its category initsync." in health


def test_a_batch_under_way_shows_in_health_and_goes_on(
    own_nats: NatsProcess, tmp_path: Path
) -> None:
    with sidecar_on(own_nats, tmp_path) as process, process.client() as http:
        last = last_offset(http)
        assert post_batch(http, sequence(added(1)), last, plugin_key(1)).is_success
        own_nats.freeze()
        with process.client() as other:
            body = sequence(added(1), added(2), added(3))
            _post_in_thread(process, body, last + 1, plugin_key(2))
            wait_until(lambda: _reason(other, "outcomes") is not None)
            assert _reason(other, "refusals") is not None
            assert "publishes_in_flight 1.0" in other.get("/metrics").text
            own_nats.thaw()
            wait_until(lambda: other.get("/health").status_code == 200)
            wait_until(lambda: last_offset(other) == last + 4)


def _reason(http: httpx.Client, name: str) -> str | None:
    checks = http.get("/health").json()["checks"]
    reason: str | None = next(each for each in checks if each["name"] == name)["reason"]
    return reason


def _post_in_thread(process: SidecarProcess, body: bytes, last: int, key: str) -> None:
    def send() -> None:
        with process.client() as http:
            post_batch(http, body, last, key)

    threading.Thread(target=send).start()


def test_no_log_line_holds_a_payload(quiet: SidecarProcess) -> None:
    secret = added(SECRET, objattrs={"password": SECRET})
    with quiet.client() as http:
        last = last_offset(http)
        post_batch(http, sequence(secret, secret), last, "secret")
        post_batch(http, sequence(secret, added(2)), last, "secret")
        post_batch(http, sequence(secret, event(SECRET + "!")), last)
        post_batch(http, sequence(secret, SECRET.encode()), last)
        post_batch(http, sequence(secret)[:-1], last)
    refused = [row for row in quiet.rows() if row["event"] == "refused"]
    assert {row["code"] for row in refused} == {
        "key_reused",
        "illegal_category",
        "malformed_json",
        "not_a_batch",
    }
    assert {row["index"] for row in refused} == {1, 2}
    assert SECRET not in quiet.output()
    assert json.dumps(SECRET) not in quiet.output()
