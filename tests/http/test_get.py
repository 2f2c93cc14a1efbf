# SPDX-License-Identifier: Apache-2.0
"""GET /v1/stream and GET /v1/events: where the stream stands, and its pages."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from support.http_api import SECRET, assert_problem
from support.jetstream import RawNatsClient, wait_jetstream
from support.process import quickest, wait_until
from support.sidecar import SidecarProcess, event, last_offset, post, sidecar_on

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.nats import NatsProcess


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
    with RawNatsClient(nats.port) as operator:
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
    assert time.monotonic() - started_at > 0.4


@pytest.mark.parametrize("query", [{}, {"category": "base"}])
def test_wait_gives_the_event_as_soon_as_it_arrives(
    fresh: SidecarProcess, ten: httpx.Client, query: dict[str, str]
) -> None:
    last = last_offset(ten)
    pages: list[dict[str, Any]] = []

    def read() -> None:
        with fresh.client() as reader:
            pages.append(get(reader, offset=last + 1, wait=60, **query))

    thread = threading.Thread(target=read)
    thread.start()
    wait_until(lambda: "readers_waiting 1.0" in ten.get("/metrics").text)
    post(ten, event(objpkey="late"), last)
    thread.join(30)  # half of what it would wait
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
    with RawNatsClient(nats.port) as operator:
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
        with RawNatsClient(nats.port) as operator:
            operator.api("STREAM.MSG.DELETE.holed", {"seq": 5})
            page = get(http, offset=5)
            assert (page["events"], page["next_offset"]) == ([], 5)
            operator.publish("holed.base", event())
        answer = http.get("/v1/events", params={"offset": 5})
        assert assert_problem(answer, 503, "hole")["offset"] == 5
