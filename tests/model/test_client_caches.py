# SPDX-License-Identifier: Apache-2.0
"""Where a new bus begins, from the caches of the clients of the old one."""

from __future__ import annotations

from typing import Any

import pytest

from sidecar.model.moving import CacheError, Moving, first_offset, read_cache


def cache(start: Any, stop: Any, following: Any) -> dict[str, Any]:
    offsets = {"initstartoffset": start, "initstopoffset": stop}
    return {"content": offsets | {"nextoffset": following, "queueErrors": {}}}


@pytest.mark.parametrize(
    ("offsets", "found"),
    [
        ((1, 4, 9), Moving("ad", 9, True)),
        ((1, 4, 4), Moving("ad", 4, True)),  # Hermes' own rule
        ((1, 4, 3), Moving("ad", 3, False)),
        ((None, None, None), Moving("ad", None, False)),
        ((0, 3, 4), Moving("ad", 4, True)),  # Kafka begins at 0
    ],
)
def test_a_cache_says_where_its_client_stands(offsets: Any, found: Moving) -> None:
    assert read_cache("ad", cache(*offsets)) == found


@pytest.mark.parametrize(
    "document",
    [
        None,
        [],
        {},
        {"content": []},
        {"content": {"Users": []}},
        cache(1, 4, "9"),
        cache(1, 4, True),
        cache(1, 4, -1),
        cache(1, 4.5, 9),
    ],
)
def test_what_is_no_clients_cache_is_refused(document: Any) -> None:
    with pytest.raises(CacheError):
        read_cache("ad", document)


AD, LDAP = Moving("ad", 9, True), Moving("ldap", 7, True)
NEW, HALF = Moving("new", None, False), Moving("half", 9, False)


@pytest.mark.parametrize(
    ("clients", "end", "first", "who"),
    [
        ([AD], None, 9, []),
        ([AD, AD], 9, 9, []),
        ([AD, NEW], None, 9, []),  # the initsync of the new bus is for it
        ([AD, LDAP], None, 9, ["ldap is 2 behind"]),
        ([AD, LDAP], 12, 12, ["ad is 3 behind", "ldap is 5 behind"]),
        ([AD, HALF], None, 9, ["half has not read its initsync"]),
        ([NEW], 12, 12, []),
    ],
)
def test_the_bus_begins_where_all_clients_stand(
    clients: list[Moving], end: int | None, first: int, who: list[str]
) -> None:
    found, sentences = first_offset(clients, end)
    assert found == first
    assert len(sentences) == len(who)
    for sentence, start in zip(sentences, who, strict=True):
        assert sentence.startswith(start)
        assert sentence.endswith(f"until it is at {first}.")


@pytest.mark.parametrize(
    ("clients", "end"),
    [
        ([NEW], None),
        ([], None),
        ([AD], 8),  # another bus than the one that it reads
        ([Moving("kafka", 0, True)], None),
        ([Moving("ad", 2**53, True)], None),
    ],
)
def test_what_gives_no_offset_is_refused(
    clients: list[Moving], end: int | None
) -> None:
    with pytest.raises(CacheError):
        first_offset(clients, end)
