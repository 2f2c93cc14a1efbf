# SPDX-License-Identifier: Apache-2.0
"""GET /v1/passes and POST /v1/match: what a producer asks after a kill."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from support.failing import Q
from support.http_api import SECRET, assert_problem
from support.sidecar import PRODUCER as P
from support.sidecar import SidecarProcess, event, last_offset, plugin_key, post

from sidecar.model.last_pass import digest_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import httpx
    from support.nats import NatsProcess


@pytest.fixture
def http(quiet: SidecarProcess) -> Iterator[httpx.Client]:
    with quiet.client() as http:
        yield http


def passed(http: httpx.Client, start: object = "last", process: str = Q) -> Any:
    answer = http.get(f"/v1/passes/{start}", headers={"Hermes-Producer": process})
    assert answer.status_code == 200, answer.text
    assert SECRET not in answer.text
    return answer.json()


def removed(pkey: object) -> bytes:
    return event(eventtype="removed", objpkey=pkey)


def match(http: httpx.Client, offset: object, body: bytes) -> httpx.Response:
    return http.post(f"/v1/match?offset={offset}", content=body)


# -- GET /v1/passes --------------------------------------------------------------------


def test_a_new_stream_has_no_pass(http: httpx.Client) -> None:
    last = last_offset(http)
    assert passed(http) == {
        "start": None,
        "objects": [],
        "complete": True,
        "first_offset": last + 1,
        "last_offset": last,
    }


def test_the_last_pass_is_that_of_the_newest_base_event(http: httpx.Client) -> None:
    last = last_offset(http)
    for count, body in enumerate([removed(SECRET), removed(7), event("initsync")]):
        key = plugin_key(count, P, last)
        assert post(http, body, last + count, key).status_code == 201
    found = passed(http)
    assert (found["start"], found["last_offset"]) == (last, last + 3)
    objects = {SECRET: last + 1, 7: last + 2}
    assert found["objects"] == sorted(
        f"{digest_of(Q, 'Users', pkey)} {offset}" for pkey, offset in objects.items()
    )
    assert passed(http, last) == found
    assert passed(http, last + 1)["objects"] == []  # no key says that it began there
    assert passed(http, process=P)["objects"] == []  # its own
    assert passed(http, last + 3)["objects"] == []


def test_a_person_has_no_pass(http: httpx.Client) -> None:
    assert post(http, removed(7)).status_code == 201
    assert passed(http)["start"] is None


def test_what_is_no_offset_has_no_pass(http: httpx.Client) -> None:
    for start in ("first", "-1", "01", "9" * 17, "1.5"):
        assert_problem(http.get(f"/v1/passes/{start}"), 404, "not_found")


def test_a_role_that_only_reads_says_nothing_of_passes(
    tmp_path: Path, nats: NatsProcess, sidecar: SidecarProcess
) -> None:
    assert sidecar.is_alive  # it made the stream
    settings = {"nats_url": nats.url, "role": "consumer"}
    with SidecarProcess(tmp_path, **settings) as process, process.client() as http:
        assert_problem(http.get("/v1/passes/last"), 403, "wrong_role", "not_stored")
        assert_problem(match(http, 1, event()), 403, "wrong_role", "not_stored")


# -- POST /v1/match --------------------------------------------------------------------


def test_the_attributes_of_an_added_object_match_in_any_order(
    http: httpx.Client,
) -> None:
    """Hermes takes them out of a set: in each process their order is another."""
    last = last_offset(http)
    attributes = {"name": SECRET, "id": 1}
    assert post(http, event(objattrs=attributes), last).status_code == 201
    again = event(objattrs=dict(reversed(attributes.items())))
    assert match(http, last + 1, again).json()["matches"]
    other = event(objattrs=attributes | {"id": 2})
    assert not match(http, last + 1, other).json()["matches"]


def test_an_event_matches_at_its_offset_alone_and_no_other_does(
    http: httpx.Client, quiet: SidecarProcess
) -> None:
    last = last_offset(http)
    key = plugin_key(0, P, last)
    assert post(http, removed(SECRET), last, key).status_code == 201
    ends = {"first_offset": last + 1, "last_offset": last + 1, "last_key": key}
    found = match(http, last + 1, removed(SECRET)).json()
    assert found == {"matches": True, "key": key} | ends
    for offset, body in [
        (last + 1, removed(7)),
        (last + 1, removed(SECRET) + b" "),
        (last, removed(SECRET)),
        (last + 2, removed(SECRET)),
        (0, removed(SECRET)),
    ]:
        found = {"matches": False, "key": key if offset == last + 1 else None}
        assert match(http, offset, body).json() == found | ends
    assert last_offset(http) == last + 1
    metric = "hermes_sidecar_events_recognised_total"
    assert f"{metric} 1.0" in http.get("/metrics").text
    assert SECRET not in quiet.output()


@pytest.mark.parametrize("query", ["", "?offset=", "?offset=-1", "?offset=1&x=2"])
def test_an_offset_is_needed(http: httpx.Client, query: str) -> None:
    answer = http.post(f"/v1/match{query}", content=event())
    assert_problem(answer, 400, "malformed_query")


def test_a_body_that_no_event_may_have_is_refused(http: httpx.Client) -> None:
    answer = match(http, 1, b"x" * 9_000_000)
    assert_problem(answer, 413, "event_too_large", "not_stored")
