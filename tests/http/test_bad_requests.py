# SPDX-License-Identifier: Apache-2.0
"""Requests that are refused, each followed by a good one that is not."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from support.http_api import LIMIT_BYTES, SECRET, assert_problem, category, headers
from support.sidecar import SidecarProcess, event, last_offset, post

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.nats import NatsProcess


# -- Bad input -------------------------------------------------------------------------


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
    assert "headers count" in document["remedy"]


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
