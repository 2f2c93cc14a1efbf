# SPDX-License-Identifier: Apache-2.0
"""A client that catches up gives way to the events that Hermes sends meanwhile."""

from __future__ import annotations

import time
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from support.sidecar import event, last_offset, post, sidecar_on

from sidecar.http.reads import _gives_way
from sidecar.services.pages import NEXT, Query

if TYPE_CHECKING:
    from pathlib import Path

    from support.nats import NatsProcess


@pytest.mark.parametrize(
    ("offset", "stored_ago", "gives_way"),
    [
        (1, 0.1, True),
        (900, 0.1, True),
        (901, 0.1, False),  # it follows
        (None, 0.1, False),
        (NEXT, 0.1, False),
        (1, 2.0, False),  # Hermes sends nothing
        (1, None, False),
    ],
)
def test_who_gives_way(
    offset: int | None, stored_ago: float | None, gives_way: bool
) -> None:
    stored_at = None if stored_ago is None else time.monotonic() - stored_ago
    publisher: Any = SimpleNamespace(acknowledged_at=stored_at)
    query = replace(Query(1), offset=offset)
    assert _gives_way(query, 1000, publisher) is gives_way


def test_its_pages_are_small_and_the_same_events_come(
    nats: NatsProcess, tmp_path: Path
) -> None:
    with sidecar_on(nats, tmp_path) as process, process.client() as http:
        last = last_offset(http)
        for number in range(150):
            assert post(http, event(objpkey=number)).is_success
        offset, pages, read = last + 1, 0, []
        while offset <= last + 150:
            page = http.get(
                "/v1/events",
                params={"offset": offset},
                headers={"User-Agent": "hermes-client-ldap"},
            ).json()
            read += [row["offset"] for row in page["events"]]
            pages += 1
            offset = page["next_offset"]
        assert read == list(range(last + 1, last + 151))
        assert pages > 1
        page = http.get("/v1/events", params={"offset": last + 1}).json()
        assert len(page["events"]) == 150  # to a person, as it was asked
