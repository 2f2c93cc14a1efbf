# SPDX-License-Identifier: Apache-2.0
"""What a query may hold, and that responses hold what is said of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from support.sidecar import event, post

from sidecar import errors
from sidecar.errors import Problem
from sidecar.http.models import (
    EventDocument,
    HealthDocument,
    LiveDocument,
    PageDocument,
    StoredDocument,
    StreamDocument,
    read_query,
)
from sidecar.services.pages import MAX_BYTES, NEXT, Query

if TYPE_CHECKING:
    import httpx
    from pydantic import BaseModel


@pytest.mark.parametrize(
    ("parameters", "query"),
    [
        ([], Query(None)),
        ([("offset", "first")], Query(None)),
        ([("offset", "next")], Query(NEXT)),
        ([("offset", "7")], Query(7)),
        ([("offset", "0")], Query(0)),
        ([("offset", "9007199254740991")], Query(2**53 - 1)),
        ([("limit", "1")], Query(None, limit=1)),
        ([("limit", "5000")], Query(None, limit=5000)),
        ([("max_bytes", "1")], Query(None, max_bytes=1)),
        ([("max_bytes", "1000000000")], Query(None, max_bytes=MAX_BYTES)),
        ([("wait", "0")], Query(None, wait_seconds=0)),
        ([("wait", "0.250")], Query(None, wait_seconds=0.25)),
        ([("wait", "60")], Query(None, wait_seconds=60)),
        ([("category", "base")], Query(None, category="base")),
        ([("category", "a" * 64)], Query(None, category="a" * 64)),
        (
            [("offset", "7"), ("limit", "2"), ("wait", "1"), ("category", "a-B_1")],
            Query(7, limit=2, wait_seconds=1, category="a-B_1"),
        ),
    ],
)
def test_a_query_in_range_is_read(
    parameters: list[tuple[str, str]], query: Query
) -> None:
    assert read_query(dict(parameters)) == query


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("offset", ""),
        ("offset", "-1"),
        ("offset", "last"),
        ("offset", "1.0"),
        ("offset", "1e3"),
        ("offset", " 1"),
        ("offset", "\u0661"),
        ("offset", "9007199254740992"),
        ("offset", "9" * 19),
        ("offset", "FIRST"),
        ("limit", "0"),
        ("limit", "5001"),
        ("limit", "x"),
        ("limit", ""),
        ("limit", "9" * 100),
        ("limit", " 1"),
        ("limit", "1.0"),
        ("limit", "1_0"),
        ("limit", "+1"),
        ("max_bytes", "0"),
        ("max_bytes", "1000000001"),
        ("wait", "61"),
        ("wait", "60.000001"),
        ("wait", "-1"),
        ("wait", "nan"),
        ("wait", "inf"),
        ("wait", "1e1"),
        ("wait", "1."),
        ("wait", ""),
        ("category", ""),
        ("category", "a.b"),
        ("category", "*"),
        ("category", "a" * 65),
        ("category", "é"),
    ],
)
def test_a_parameter_out_of_range_is_named_without_its_value(
    name: str, value: str
) -> None:
    with pytest.raises(Problem) as caught:
        read_query({name: value})
    assert caught.value.cause is errors.MALFORMED_QUERY
    assert caught.value.members == {"parameter": name}


def test_an_unknown_parameter_is_refused_without_echoing_its_name() -> None:
    with pytest.raises(Problem) as caught:
        read_query({"c0rrect": "1"})
    assert caught.value.cause is errors.MALFORMED_QUERY
    assert "c0rrect" not in repr(caught.value.document())


def test_responses_hold_just_what_is_described(http: httpx.Client) -> None:
    stored = post(http, event())
    page = http.get("/v1/events", params={"limit": 1})
    described: list[tuple[type[BaseModel], httpx.Response]] = [
        (StoredDocument, stored),
        (PageDocument, page),
        (StreamDocument, http.get("/v1/stream")),
        (HealthDocument, http.get("/health")),
        (LiveDocument, http.get("/health/live")),
    ]
    for model, response in described:
        model.model_validate_json(response.content, strict=True)
        assert set(response.json()) == set(model.model_fields)
    assert set(page.json()["events"][0]) == set(EventDocument.model_fields)
