# SPDX-License-Identifier: Apache-2.0
"""The cards of the status page: stream, initsync, NATS and sidecar."""

from __future__ import annotations

from dataclasses import replace

from support.status_page import WELL, cards

from sidecar.http.status_page import render, size
from sidecar.model.initsync import Initsync, Mark
from sidecar.model.publish_reply import Position
from sidecar.model.stream import StreamInfo
from sidecar.services.activity import Row

INFO = StreamInfo(
    config={"max_bytes": 4_000, "max_msgs": -1, "max_age": 3_600 * 10**9},
    position=Position(1, 41),
    messages=41,
    size_bytes=1_000,
    created="",
    leader="n1",
    replicas=3,
    live_replicas=2,
    categories={},
)
INITSYNC = Initsync(
    Mark(2, "initsync", "init-start", 0),
    Mark(9, "initsync", "init-stop", 60),
    objects=6,
)
SEEN = replace(
    WELL, info=INFO, is_initsync_known=True, initsync=INITSYNC, initsync_stays=90
)


def test_the_stream_and_its_last_initsync_are_told_with_their_ends() -> None:
    newest = Row(41, "1970-01-01T00:00:00.5Z", "base", "added", "Users", 2048)
    assert cards(render(replace(SEEN, now=62.0, newest=newest))) == {
        "Stream": {
            "Name": "hermes",
            "First offset": "1",
            "Last offset": "41",
            "Last event": "1 min 1 s ago",
            "Events": "41, no limit",
            "Size": f"{size(1_000)} of {size(4_000)} (25%)",
            "Retention": "1 h",
            "Replicas live": "2 of 3",
        },
        "Initsync": {
            "Last complete": "1970-01-01T00:01:00Z",
            "Objects": "6",
            "First offset": "2",
            "Last offset": "9",
            "Expires": "in 1 min 30 s",
        },
        "NATS": {"Server": "n1 2.12.0", "URL": ""},
        "Sidecar": {"Host": "", "Role": "", "Unix socket": "none"},
    }
    assert "<dd>never</dd>" in render(replace(SEEN, initsync_stays=None))
    for is_known, words in ((True, "none"), (False, "not known")):
        view = replace(WELL, info=INFO, is_initsync_known=is_known)
        assert cards(render(view))["Initsync"] == {"Last complete": words}
    empty = replace(INFO, messages=0, position=Position(42, 41))
    stream = cards(render(replace(WELL, info=empty, rows=[])))["Stream"]
    assert stream["Next offset"] == "42"
    assert "Last event" not in stream
    older = replace(SEEN, newest=replace(newest, offset=40))  # there is a newer one
    behind = cards(render(older))["Stream"]
    assert "Last event" not in behind


def test_what_is_old_is_marked_and_nothing_is_said_to_live() -> None:
    old = replace(SEEN, now=120.0, is_old=True, info_age_seconds=61.0)
    text = render(old)
    assert text.count("Old: seen last 1 min 1 s ago, 1970-01-01T00:00:59Z.") == 2
    assert cards(text)["Stream"]["Replicas live"] == "not known, of 3"
    assert cards(text)["Initsync"]["Expires"] == "not known"
    assert "Old:" not in render(SEEN)


def test_sidecar_and_nats_say_where_they_are() -> None:
    view = replace(
        WELL,
        server_urls=("nats://a:4222", "nats://b:4222"),
        host="ldap-1",
        role="consumer",
        socket="/run/hermes.sock",
        recognised_count=80,
    )
    assert cards(render(view))["Sidecar"] == {
        "Host": "ldap-1",
        "Role": "consumer",
        "Unix socket": "/run/hermes.sock",
        "Sent again by Hermes and recognised": "80",
    }
    assert cards(render(replace(view, server="")))["NATS"] == {
        "Server": "not connected",
        "Tried": "nats://a:4222, nats://b:4222",
    }
