# SPDX-License-Identifier: Apache-2.0
"""Whose key it is, and whose event."""

from __future__ import annotations

import json
from typing import Any

import pytest
from support.failing import CURL, key
from support.sidecar import PRODUCER as P
from support.sidecar import event, plugin_key

from sidecar.model.event import Object, parse_object
from sidecar.model.producer_key import producer_of

# -- Whose key it is -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (key(P, 0), P),
        (key(P, 2**32), P),
        (plugin_key(7, P, 1_795_427_233_892_123), P),
        (CURL, None),
        (key(P, 7).upper(), None),
        (f"{P}07-1-1", None),
        (f"{P}7-01-1", None),
        (f"{P}7-1-01", None),
        (f"{P}7-1", None),
        (f"{P}7", None),
        (f"{P}-7", None),
        (key(P, 7) + ".1", P),
        (key(P, 7) + ".1000", P),
        (key(P, 7) + ".0", None),
        (key(P, 7) + ".01", None),
        (key(P, 7) + ".10000", None),
        (key(P, 7) + ".", None),
        (key(P, 7) + ".1.1", None),
        (P, None),
        ("the-first", None),
        ("", None),
    ],
)
def test_a_producer_is_named_by_keys_of_the_plugins_form_alone(
    text: str, name: str | None
) -> None:
    assert producer_of(text) == name


def test_the_plugin_makes_such_keys(hermes_home: Any) -> None:
    from support.hermes import load_plugin  # noqa: PLC0415 - the fixture makes its home

    plugin = load_plugin(hermes_home, "messagebus_producers", {"url": "http://x:1"})
    assert producer_of(key(plugin._keys_start, 7)) == plugin._keys_start


# -- Whose event it is -----------------------------------------------------------------


ESCAPED = json.dumps('"objattrs":')


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (event(objpkey=7), Object("base", "Users", "7")),
        (event(objpkey=7)[:130], Object("base", "Users", "7")),
        (event(objpkey='"objattrs":')[:170], Object("base", "Users", ESCAPED)),
        (event(objpkey=[2, "b"]), Object("base", "Users", '[2, "b"]')),
        (event(objtype=None, objpkey=None), Object("base", "added", "null")),
        (event("a.b"), None),
        (event(objtype="no name", eventtype=None), None),
        (event(objpkey=7)[:60], None),
        (b'{"evcategory": "base"}', None),
        (b'"objattrs": 1', None),
        (b'[{"objattrs": 1', None),
        (b"[" * 5000 + b'"objattrs": 1', None),
        (b'\xff"objattrs": 1', None),
        (b"", None),
    ],
)
def test_an_object_is_read_from_the_start_of_an_event_as_hermes_writes_it(
    body: bytes, found: Object | None
) -> None:
    assert parse_object(body) == found


def test_an_object_shows_no_key() -> None:
    found = parse_object(event(objpkey="c0rrect-horse"))
    assert "c0rrect-horse" not in repr(found)


def test_it_is_the_same_object_whatever_happens_to_it() -> None:
    added, removed = event(step=1), event(eventtype="removed", objattrs={"a": 1})
    assert parse_object(added) == parse_object(removed) is not None
