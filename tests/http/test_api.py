# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from base64 import b64decode, b64encode
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from parts.jetstream import Operator, wait_jetstream
from parts.process import quickest, wait_until
from parts.sidecar import SidecarProcess, event, last_offset, post, sidecar_on

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from parts.nats import NatsProcess

SECRET = "c0rrect-horse"
JSON = {"Content-Type": "application/json"}
LIMIT_BYTES = 8 * 1024 * 1024


def headers(**changes: str | None) -> dict[str, str]:
    """Give the headers of a good request, but for `changes` (None: without)."""
    good: dict[str, str | None] = {
        "Content-Type": "application/json",
        "Idempotency-Key": str(uuid.uuid4()),
        "If-Match": "*",
    }
    good |= {name.replace("_", "-"): value for name, value in changes.items()}
    return {name: value for name, value in good.items() if value is not None}


def stored_text(http: httpx.Client, offset: int) -> str:
    answer = http.get("/v1/events", params={"offset": offset, "limit": 1})
    (row,) = answer.raise_for_status().json()["events"]
    assert row["offset"] == offset
    text: str = row["data"]
    return text


def assert_problem(
    answer: httpx.Response, status: int, code: str, outcome: str | None = None
) -> dict[str, Any]:
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    document: dict[str, Any] = answer.json()
    assert document["status"] == status
    assert document["title"]
    assert document["remedy"]
    assert document.get("outcome") == outcome
    assert SECRET not in answer.text
    assert SECRET not in str(answer.headers)
    return document


# -- Bad input -------------------------------------------------------------------------


def category(value: object) -> bytes:
    return json.dumps({"evcategory": value, "objattrs": SECRET}).encode()


BAD_BODIES = {
    "empty": (b"", 400, "malformed_json"),
    "no JSON": (SECRET.encode(), 400, "malformed_json"),
    "array": (f'["{SECRET}"]'.encode(), 400, "malformed_json"),
    "string": (f'"{SECRET}"'.encode(), 400, "malformed_json"),
    "invalid UTF-8": (b'{"evcategory": "base", "a": "\xff"}', 400, "malformed_json"),
    "deep": (b'{"a":' * 100_000, 422, "too_deep"),
    "deep and whole": (
        b'{"evcategory":"base","a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        422,
        "too_deep",
    ),
    "no category": (f'{{"a": "{SECRET}"}}'.encode(), 422, "illegal_category"),
    "dot": (category("a.b"), 422, "illegal_category"),
    "star": (category("*"), 422, "illegal_category"),
    "greater": (category(">"), 422, "illegal_category"),
    "space": (category("a b"), 422, "illegal_category"),
    "long": (category("a" * 65), 422, "illegal_category"),
    "empty category": (category(""), 422, "illegal_category"),
    "number": (category(7), 422, "illegal_category"),
    "null": (category(None), 422, "illegal_category"),
    "secret": (category(SECRET + "!"), 422, "illegal_category"),
    "too large": (b"x" * (LIMIT_BYTES + 1), 413, "event_too_large"),
}


@pytest.mark.parametrize(
    ("body", "status", "code"), BAD_BODIES.values(), ids=BAD_BODIES
)
def test_a_bad_body_is_refused_and_the_next_good_one_is_stored(
    http: httpx.Client, body: bytes, status: int, code: str
) -> None:
    last = last_offset(http)
    answer = http.post("/v1/events", content=body, headers=headers())
    assert_problem(answer, status, code, "not_stored")
    assert last_offset(http) == last
    assert post(http, last=last).status_code == 201


BAD_HEADERS = {
    "no If-Match": ({"If_Match": None}, 428, "precondition_required"),
    "If-Match unquoted": ({"If_Match": "7"}, 400, "malformed_precondition"),
    "If-Match weak": ({"If_Match": 'W/"7"'}, 400, "malformed_precondition"),
    "If-Match list": ({"If_Match": '"7", "8"'}, 400, "malformed_precondition"),
    "If-Match negative": ({"If_Match": '"-1"'}, 400, "malformed_precondition"),
    "If-Match text": ({"If_Match": f'"{SECRET}"'}, 400, "malformed_precondition"),
    "If-Match huge": ({"If_Match": '"99999999999999999999"'}, 400, None),
    "no key": ({"Idempotency_Key": None}, 400, "no_key"),
    "key empty": ({"Idempotency_Key": ""}, 400, "malformed_key"),
    "key with space": ({"Idempotency_Key": f"{SECRET} a"}, 400, "malformed_key"),
    "key long": ({"Idempotency_Key": "k" * 129}, 400, "malformed_key"),
    "no type": ({"Content_Type": None}, 415, "unsupported_media_type"),
    "text": ({"Content_Type": "text/plain"}, 415, "unsupported_media_type"),
    "form": (
        {"Content_Type": "application/x-www-form-urlencoded"},
        415,
        "unsupported_media_type",
    ),
    "other JSON": (
        {"Content_Type": "application/json-patch+json"},
        415,
        "unsupported_media_type",
    ),
}


@pytest.mark.parametrize(
    ("changes", "status", "code"), BAD_HEADERS.values(), ids=BAD_HEADERS
)
def test_a_bad_header_is_refused_and_the_next_good_request_is_stored(
    http: httpx.Client, changes: dict[str, str | None], status: int, code: str | None
) -> None:
    last = last_offset(http)
    answer = http.post("/v1/events", content=event(), headers=headers(**changes))
    assert_problem(answer, status, code or "malformed_precondition", "not_stored")
    assert last_offset(http) == last
    assert post(http, last=last).status_code == 201


def test_a_body_over_the_limit_by_its_length_is_refused_before_it_is_read(
    sidecar: SidecarProcess, http: httpx.Client
) -> None:
    last = last_offset(http)
    with socket.socket(socket.AF_UNIX) as plain:
        plain.settimeout(10)
        plain.connect(str(sidecar.socket))
        lines = [f"{name}: {value}" for name, value in headers().items()]
        lines += ["Host: localhost", "Content-Length: 99999999999"]
        request = "\r\n".join(["POST /v1/events HTTP/1.1", *lines, "", ""])
        plain.sendall(request.encode())
        answer = plain.recv(65536)
        while not answer.endswith(b"}"):
            answer += plain.recv(65536)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b'"size_bytes": 99999999999' in answer
    assert last_offset(http) == last
    assert post(http, last=last).status_code == 201


def test_a_body_over_the_limit_by_its_chunks_is_refused(http: httpx.Client) -> None:
    last = last_offset(http)
    sent = 0

    def chunks() -> Iterator[bytes]:
        nonlocal sent
        while sent < 4 * LIMIT_BYTES:
            sent += 65536
            yield b"x" * 65536

    try:
        answer = http.post("/v1/events", content=chunks(), headers=headers())
    except httpx.WriteError:  # refused and hung up while we still wrote
        pass
    else:
        assert_problem(answer, 413, "event_too_large", "not_stored")
    assert last_offset(http) == last
    assert post(http, last=last).status_code == 201


def test_a_413_says_size_limit_and_remedy_with_headers_counted(
    http: httpx.Client,
) -> None:
    body = event(objattrs={"photo": "x" * (LIMIT_BYTES - 300)})
    assert len(body) < LIMIT_BYTES
    document = assert_problem(post(http, body), 413, "event_too_large", "not_stored")
    assert document["limit_bytes"] == LIMIT_BYTES
    assert document["size_bytes"] > LIMIT_BYTES
    assert "headers" in document["remedy"]


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("PUT", "/v1/events", 405, "method_not_allowed"),
        ("DELETE", "/v1/events", 405, "method_not_allowed"),
        ("POST", "/v1/stream", 405, "method_not_allowed"),
        ("POST", "/health", 405, "method_not_allowed"),
        ("GET", "/v1/nothing", 404, "not_found"),
        ("GET", f"/{SECRET}", 404, "not_found"),
        ("GET", "/v1/events/7", 404, "not_found"),
        ("POST", "/v1/events/", 404, "not_found"),
        ("GET", "/docs", 404, "not_found"),
        ("GET", "/openapi.json", 404, "not_found"),
    ],
)
def test_a_wrong_method_or_path_is_a_problem_too(
    http: httpx.Client, method: str, path: str, status: int, code: str
) -> None:
    answer = http.request(method, path)
    assert_problem(answer, status, code)
    if status == 405:
        assert answer.headers["allow"]


def test_a_request_that_is_no_http_leaves_the_sidecar_well(
    sidecar: SidecarProcess, http: httpx.Client
) -> None:
    with socket.socket(socket.AF_UNIX) as plain:
        plain.connect(str(sidecar.socket))
        plain.sendall(SECRET.encode() + b"\r\n\r\n")
        answer = plain.recv(65536)
    assert SECRET.encode() not in answer
    assert post(http).status_code == 201


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
    with Operator(nats.port) as operator:
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
    with Operator(nats.port) as operator:
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


@pytest.fixture
def quiet(nats: NatsProcess, tmp_path: Path) -> Iterator[SidecarProcess]:
    """Serve a stream of its own, with a log that no other test has filled."""
    with sidecar_on(nats, tmp_path / "quiet") as process:
        yield process


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


# -- GET /v1/stream --------------------------------------------------------------------


@pytest.fixture(scope="module")
def fresh(
    nats: NatsProcess, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SidecarProcess]:
    """Serve a stream of its own that nobody else writes to."""
    with sidecar_on(nats, tmp_path_factory.mktemp("fresh"), "fresh") as process:
        yield process


def test_a_new_stream_starts_at_the_microseconds_of_now_and_is_read_as_empty(
    nats: NatsProcess, tmp_path: Path
) -> None:
    before_us = int(time.time() * 1_000_000)
    with (
        sidecar_on(nats, tmp_path, "empty") as process,
        process.client() as http,
    ):
        document = http.get("/v1/stream").json()
        first = document["first_offset"]
        assert before_us <= first <= time.time() * 1_000_000
        assert document["last_offset"] == first - 1
        assert document["next_offset"] == first
        assert (document["messages"], document["last_key"]) == (0, None)
        for offset in ("first", "next", first):
            page = http.get("/v1/events", params={"offset": offset}).json()
            assert page == {
                "events": [],
                "next_offset": first,
                "first_offset": first,
                "last_offset": first - 1,
            }
        assert post(http, last=first - 1).json()["offset"] == first


def test_an_empty_stream_that_was_made_by_hand_is_followed_from_its_first_event(
    nats: NatsProcess, tmp_path: Path
) -> None:
    wait_jetstream(nats.port)
    with Operator(nats.port) as operator:
        operator.create("byhand")
    with (
        SidecarProcess(
            tmp_path, nats_url=nats.url, stream="byhand", subject_prefix="byhand"
        ) as process,
        process.client() as http,
    ):
        page = http.get("/v1/events", params={"offset": "first"}).json()
        assert (page["events"], page["next_offset"]) == ([], 1)
        assert post(http, last=0).json()["offset"] == 1
        page = http.get("/v1/events", params={"offset": page["next_offset"]}).json()
        assert [row["offset"] for row in page["events"]] == [1]


def test_the_stream_says_where_it_stands(fresh: SidecarProcess) -> None:
    with fresh.client() as http:
        last = last_offset(http)
        before = http.get("/v1/stream").json()["categories"]
        post(http, event("base"), last)
        post(http, event("initsync"), last + 1)
        post(http, event("base"), last + 2, key="the-last")
        answer = http.get("/v1/stream")
        document = answer.json()
        assert answer.headers["etag"] == f'"{last + 3}"'
        assert document["last_offset"] == last + 3
        assert document["next_offset"] == last + 4
        assert document["last_key"] == "the-last"
        assert document["bytes"] > 0
        assert document["created"]
        assert document["messages"] == sum(document["categories"].values())
        assert document["categories"]["base"] == before.get("base", 0) + 2
        assert document["categories"]["initsync"] == before.get("initsync", 0) + 1


# -- GET /v1/events --------------------------------------------------------------------


@pytest.fixture(scope="module")
def ten(fresh: SidecarProcess) -> Iterator[httpx.Client]:
    """HTTP to a stream that holds at least ten events: base, initsync, base ..."""
    with fresh.client() as http:
        for number in range(10):
            category = "initsync" if number % 2 else "base"
            post(http, event(category, objpkey=number))
        yield http


def offsets(page: dict[str, Any]) -> list[int]:
    return [row["offset"] for row in page["events"]]


def get(http: httpx.Client, **query: object) -> dict[str, Any]:
    answer = http.get("/v1/events", params={k: str(v) for k, v in query.items()})
    assert answer.status_code == 200, answer.text
    page: dict[str, Any] = answer.json()
    return page


def test_a_row_holds_offset_time_category_and_text(ten: httpx.Client) -> None:
    last = last_offset(ten)
    body = event("initsync", objpkey="Zoé")
    post(ten, body, last)
    (row,) = get(ten, offset=last + 1)["events"]
    assert row["offset"] == last + 1
    assert row["category"] == "initsync"
    assert row["data"] == body.decode()
    assert row["timestamp"].endswith("Z")
    assert set(row) == {"offset", "timestamp", "category", "data"}


def test_without_a_query_the_page_begins_with_the_first(ten: httpx.Client) -> None:
    page = get(ten)
    assert offsets(page)[0] == page["first_offset"]
    assert offsets(page) == list(range(page["first_offset"], page["last_offset"] + 1))
    assert page["next_offset"] == page["last_offset"] + 1
    assert get(ten, offset="first")["events"] == page["events"]


def test_next_begins_after_the_last(ten: httpx.Client) -> None:
    page = get(ten, offset="next")
    assert page["events"] == []
    assert page["next_offset"] == page["last_offset"] + 1


def test_pages_of_a_limit_join_without_gap_or_overlap(ten: httpx.Client) -> None:
    last = last_offset(ten)
    offset: int | str = "first"
    seen: list[int] = []
    while offset != last + 1:
        page = get(ten, offset=offset, limit=3)
        assert 1 <= len(page["events"]) <= 3
        seen += offsets(page)
        offset = page["next_offset"]
    assert seen == list(range(seen[0], last + 1))


def test_the_page_that_follows_is_linked_until_there_is_none(
    ten: httpx.Client,
) -> None:
    page = ten.get("/v1/events?offset=first&limit=4&wait=1&max_bytes=100000")
    seen = offsets(page.json())
    while "next" in page.links:
        url = page.links["next"]["url"]
        offset = page.json()["next_offset"]
        assert url == f"/v1/events?offset={offset}&limit=4&max_bytes=100000"
        page = ten.get(url)
        seen += offsets(page.json())
    assert page.json()["next_offset"] == page.json()["last_offset"] + 1
    assert seen == offsets(get(ten))
    assert "link" not in ten.get("/v1/events?offset=next").headers


def test_the_last_offset_of_a_page_is_not_one_of_a_moment_ago(
    ten: httpx.Client,
) -> None:
    first = get(ten, offset="first")["first_offset"]
    for _ in range(3):
        stored = post(ten).json()["offset"]
        assert get(ten, offset=first, limit=1)["last_offset"] == stored
        assert get(ten, offset=stored)["last_offset"] == stored


def test_a_link_keeps_the_category_and_begins_where_no_offset_was_named(
    ten: httpx.Client,
) -> None:
    page = ten.get("/v1/events?category=base&limit=1")
    offset = page.json()["next_offset"]
    assert page.links["next"]["url"] == (
        f"/v1/events?category=base&limit=1&offset={offset}"
    )


def test_max_bytes_gives_at_least_one_event(ten: httpx.Client) -> None:
    last = last_offset(ten)
    assert offsets(get(ten, offset=last - 4, max_bytes=1)) == [last - 4]
    assert len(offsets(get(ten, offset=last - 4, max_bytes=500))) < 5
    assert len(offsets(get(ten, offset=last - 4, max_bytes=100_000))) == 5


def test_a_category_is_filtered_and_can_be_followed(ten: httpx.Client) -> None:
    rows = get(ten)["events"]
    wanted = [row["offset"] for row in rows if row["category"] == "initsync"]
    assert len(wanted) >= 5
    seen: list[int] = []
    offset: int | str = "first"
    while len(seen) < len(wanted):
        page = get(ten, offset=offset, category="initsync", limit=2)
        assert page["events"], page
        seen += offsets(page)
        offset = page["next_offset"]
    assert seen == wanted


def test_a_category_without_events_gives_none(ten: httpx.Client) -> None:
    assert get(ten, category="nothing")["events"] == []


def test_without_wait_an_empty_page_comes_at_once(ten: httpx.Client) -> None:
    assert quickest(lambda: get(ten, offset="next")) < 1


def test_wait_ends_with_an_empty_page_when_nothing_comes(ten: httpx.Client) -> None:
    started_at = time.monotonic()
    page = get(ten, offset="next", wait=0.5)
    assert page["events"] == []
    assert 0.4 < time.monotonic() - started_at < 5


@pytest.mark.parametrize("query", [{}, {"category": "base"}])
def test_wait_gives_the_event_as_soon_as_it_arrives(
    fresh: SidecarProcess, ten: httpx.Client, query: dict[str, str]
) -> None:
    last = last_offset(ten)
    pages: list[dict[str, Any]] = []

    def read() -> None:
        with fresh.client() as reader:
            pages.append(get(reader, offset=last + 1, wait=20, **query))

    thread = threading.Thread(target=read)
    thread.start()
    wait_until(lambda: "readers_waiting 1.0" in ten.get("/metrics").text)
    started_at = time.monotonic()
    post(ten, event(objpkey="late"), last)
    thread.join(10)
    assert time.monotonic() - started_at < 2
    assert offsets(pages[0]) == [last + 1]


def test_a_reader_that_leaves_frees_what_it_held(
    fresh: SidecarProcess, ten: httpx.Client
) -> None:
    for _ in range(20):
        with fresh.client(timeout=0.05) as impatient, pytest.raises(httpx.ReadTimeout):
            get(impatient, offset="next", wait=60)
    assert post(ten).status_code == 201

    def left() -> int:
        return sum(row["event"] == "client_left" for row in fresh.rows())

    wait_until(lambda: left() >= 20, what="20 readers left")
    assert not any(row["level"] == "error" for row in fresh.rows())


def test_an_offset_before_the_first_is_gone_with_first_and_last(
    ten: httpx.Client,
) -> None:
    answer = ten.get("/v1/events", params={"offset": 5})
    document = assert_problem(answer, 410, "offset_gone")
    page = get(ten)
    assert document["first_offset"] == page["first_offset"]
    assert document["last_offset"] == page["last_offset"]


def test_an_offset_far_ahead_is_unavailable_first_and_a_conflict_after_five_seconds(
    nats: NatsProcess, tmp_path: Path
) -> None:
    with (
        sidecar_on(nats, tmp_path, "ahead", publish_timeout_seconds=1) as process,
        process.client() as http,
    ):
        ready_at = time.monotonic()
        last = last_offset(http)
        ahead = {"offset": last + 2}
        answer = http.get("/v1/events", params=ahead)
        assert_problem(answer, 503, "jetstream_unavailable")
        assert answer.headers["retry-after"]
        answer = post(http, last=last + 5)
        assert_problem(answer, 503, "jetstream_unavailable", "not_stored")
        assert http.get("/v1/events", params={"offset": last + 1}).status_code == 200
        wait_until(
            lambda: http.get("/v1/events", params=ahead).status_code == 409,
            what="409 after five seconds",
        )
        assert time.monotonic() - ready_at > 3.5
        document = assert_problem(
            http.get("/v1/events", params=ahead), 409, "offset_ahead"
        )
        assert document["last_offset"] == last
        answer = post(http, last=last + 5)
        assert_problem(answer, 409, "offset_ahead", "not_stored")
        assert last_offset(http) == last
        assert post(http, last=last).status_code == 201


@pytest.mark.parametrize(
    "query",
    [
        "offset=-1",
        "offset=last",
        "offset=",
        "limit=0",
        "limit=5001",
        "max_bytes=0",
        "wait=61",
        "wait=nan",
        "category=a.b",
        "category=%ff",
        "category=*",
        "unknown=1",
        f"{SECRET}={SECRET}",
        f"offset={SECRET}",
        "offset=%00",
        "offset=1&offset=x",
    ],
)
def test_a_bad_parameter_is_refused(ten: httpx.Client, query: str) -> None:
    assert_problem(ten.get(f"/v1/events?{query}"), 400, "malformed_query")


def test_a_hole_is_an_error_and_never_skipped(
    nats: NatsProcess, tmp_path: Path
) -> None:
    wait_jetstream(nats.port)
    with Operator(nats.port) as operator:
        operator.create("holed", deny_delete=False)
        for _ in range(5):
            operator.publish("holed.base", event())
        operator.api("STREAM.MSG.DELETE.holed", {"seq": 3})
    with (
        SidecarProcess(
            tmp_path, nats_url=nats.url, stream="holed", subject_prefix="holed"
        ) as process,
        process.client() as http,
    ):
        page = get(http, offset="first")
        assert (offsets(page), page["next_offset"]) == ([1, 2], 3)
        answer = http.get("/v1/events", params={"offset": 3})
        assert assert_problem(answer, 503, "hole")["offset"] == 3
        assert offsets(get(http, offset=4)) == [4, 5]
        # At the end it is told from an old leader's word by what comes after it.
        with Operator(nats.port) as operator:
            operator.api("STREAM.MSG.DELETE.holed", {"seq": 5})
            page = get(http, offset=5)
            assert (page["events"], page["next_offset"]) == ([], 5)
            operator.publish("holed.base", event())
        answer = http.get("/v1/events", params={"offset": 5})
        assert assert_problem(answer, 503, "hole")["offset"] == 5


# -- Roles -----------------------------------------------------------------------------


def test_a_producer_serves_no_events_and_a_consumer_takes_none(
    nats: NatsProcess, sidecar: SidecarProcess, tmp_path: Path
) -> None:
    del sidecar  # it made the stream
    with (
        SidecarProcess(tmp_path / "p", nats_url=nats.url, role="producer") as producer,
        SidecarProcess(tmp_path / "c", nats_url=nats.url, role="consumer") as consumer,
        producer.client() as writer,
        consumer.client() as reader,
    ):
        assert post(writer).status_code == 201
        assert_problem(writer.get("/v1/events"), 403, "wrong_role")
        assert reader.get("/v1/events").status_code == 200
        assert_problem(post(reader), 403, "wrong_role", "not_stored")
        assert last_offset(writer) == last_offset(reader)


# -- Repeated refusals -----------------------------------------------------------------


def test_a_refusal_that_comes_again_is_logged_once_until_an_event_is_stored(
    quiet: SidecarProcess,
) -> None:
    def lines(name: str) -> list[dict[str, Any]]:
        return [row for row in quiet.rows() if row["event"] == name]

    with quiet.client() as http:
        for _ in range(4):
            assert post(http, category("no name")).status_code == 422
        assert len(lines("refused")) == 1
        assert post(http).status_code == 201
    assert [row["times"] for row in lines("repeated")] == [3]
