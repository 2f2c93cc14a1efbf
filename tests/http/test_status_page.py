# SPDX-License-Identifier: Apache-2.0
"""The status page: what it says, and what it never does."""

from __future__ import annotations

import re
from base64 import b64encode
from dataclasses import replace
from hashlib import sha256
from html.parser import HTMLParser
from typing import TYPE_CHECKING

import pytest
from support.jetstream import RawNatsClient
from support.sidecar import event, last_offset, post

from sidecar import errors
from sidecar.http.status_page import HEADERS, STYLE, StatusView, duration, render, size
from sidecar.model.clients import Client
from sidecar.model.health import Check
from sidecar.model.initsync import Initsync, Mark
from sidecar.model.publish_reply import Position
from sidecar.model.sidecars import Everyone, Seen
from sidecar.model.stream import StreamInfo
from sidecar.services.activity import Row

if TYPE_CHECKING:
    import httpx
    from support.nats import NatsProcess
    from support.sidecar import SidecarProcess

EVIL = "<script>alert(1)</script>\"'&"
SECRET = "c0rrect-horse"
WELL = StatusView(
    version="1",
    now=0.0,
    checks=[Check("stream", None)],
    stream="hermes",
    server="n1 2.12.0",
    minutes=[0] * 59 + [7],
    rows=[Row(5, "1970-01-01T00:00:00.5Z", "base", "added", "Users", 2048)],
)


class Reader(HTMLParser):
    """Collects what a browser would act upon."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.names: set[str] = set()
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.names |= {name for name, _ in attrs}
        if tag not in ("meta", "link", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.mark.parametrize(
    ("check", "words"),
    [
        (Check("stream", None), "Ready"),
        (Check("writers", "Two.", "Stop one.", blocks=False), "Ready, with a warning"),
        (Check("stream", "Down.", "Start it."), "Not ready"),
    ],
)
def test_the_state_is_said_in_words_with_reason_and_remedy(
    check: Check, words: str
) -> None:
    text = render(replace(WELL, checks=[check]))
    assert f"<strong>{words}</strong>" in text
    assert f'class="state {check.status}"' in text
    assert (check.reason or "") in text
    assert (check.remedy or "") in text


def test_the_stream_and_its_last_initsync_are_told_with_their_ends() -> None:
    info = StreamInfo(
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
    start = Mark(2, "initsync", "init-start", 0)
    whole = Initsync(start, Mark(9, "initsync", "init-stop", 60), objects=6)
    view = replace(
        WELL, info=info, is_initsync_known=True, initsync=whole, initsync_stays=90
    )
    text = render(view)
    for words in (
        *("1 to 41", "41, no limit", f"{size(1_000)} of {size(4_000)} (25%)"),
        *(duration(3_600), "2 of 3 live"),
        *("1970-01-01T00:01:00Z, 6 objects", "2 to 9", f"for {duration(90)}"),
    ):
        assert words in text
    assert "for ever" in render(replace(view, initsync_stays=None))
    for is_known, words in ((True, "none"), (False, "not known")):
        text = render(replace(WELL, info=info, is_initsync_known=is_known))
        assert f"<dt>Last complete initsync</dt><dd>{words}</dd>" in text


def test_the_page_is_whole_and_asks_for_nothing_else() -> None:
    reader = Reader(render(WELL))
    assert reader.open == []
    assert not {"script", "link", "img", "iframe", "form", "a"} & set(reader.tags)
    assert not {"src", "href", "style", "onclick", "onload"} & reader.names
    assert "url(" not in STYLE
    assert "@import" not in STYLE


def test_the_policy_allows_just_the_style_that_stands_on_the_page() -> None:
    style = render(WELL).partition("<style>")[2].partition("</style>")[0]
    allowed = b64encode(sha256(style.encode()).digest()).decode()
    policy = HEADERS["Content-Security-Policy"]
    assert f"style-src 'sha256-{allowed}';" in policy


def test_whatever_a_stored_event_says_is_escaped() -> None:
    row = Row(1, EVIL, EVIL, EVIL, EVIL, 1)
    check = Check("stream", EVIL, EVIL)
    info = StreamInfo(
        config={},
        position=Position(1, 1),
        messages=1,
        size_bytes=1,
        created=EVIL,
        leader=EVIL,
        replicas=1,
        live_replicas=1,
        categories={EVIL: 1},
    )
    evil = replace(WELL, rows=[row], checks=[check], stream=EVIL, info=info)
    text = render(replace(evil, server=EVIL, version=EVIL))
    assert "<script" not in text
    assert Reader(text).open == []


def test_what_a_browser_might_obey_is_shown() -> None:
    row = Row(1, "t", "base", "\u202eadded\x1b[0m", "Users\n", 1)
    text = render(replace(WELL, rows=[row]))
    assert "<td>\\u202eadded\\x1b[0m</td>" in text
    assert "<td>Users\\n</td>" in text


def test_what_cannot_be_known_now_is_said() -> None:
    text = render(replace(WELL, server="", minutes=None, rows=None))
    assert "not connected" in text
    assert text.count("cannot be read now") == 2
    assert "None yet." in render(replace(WELL, rows=[]))


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1_572_864, "1.5 MiB"),
        (2**30, "1.0 GiB"),
        (2**50, "1024.0 TiB"),
    ],
)
def test_sizes_are_for_people(count: int, expected: str) -> None:
    assert size(count) == expected


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (-5, "0 s"),
        (0.5, "0 s"),
        (61, "1 min 1 s"),
        (86_400, "1 d"),
        (7_776_000, "90 d"),
        (90_061, "1 d 1 h"),
    ],
)
def test_durations_are_for_people(seconds: float, expected: str) -> None:
    assert duration(seconds) == expected


def get(sidecar: SidecarProcess) -> httpx.Response:
    """Get the page over TCP, as a browser does."""
    return sidecar.get("/").raise_for_status()


def test_it_shows_stream_and_events_and_nothing_of_a_payload(
    sidecar: SidecarProcess, http: httpx.Client, nats: NatsProcess
) -> None:
    body = event(objattrs={"password": SECRET}, objpkey=SECRET, objtype="Secrets")
    offset = post(http, body).json()["offset"]
    response = get(sidecar)
    assert response.headers["content-type"].startswith("text/html")
    assert {name: response.headers[name] for name in HEADERS} == HEADERS
    assert f'<td class="right">{offset}</td>' in response.text
    assert "<td>Secrets</td>" in response.text
    assert SECRET not in response.text
    assert nats.name in response.text
    assert Reader(response.text).open == []


def test_it_shows_the_last_fifty_events_and_counts_those_of_the_hour(
    sidecar: SidecarProcess, http: httpx.Client
) -> None:
    def counted() -> int:
        found = re.search(r"(\d+) events in the last hour", get(sidecar).text)
        assert found is not None
        return int(found[1])

    before = counted()
    for _ in range(55):
        assert post(http).status_code == 201
    text = get(sidecar).text
    assert text.count("<tr><td") == 50
    assert counted() == before + 55
    assert f'<td class="right">{last_offset(http)}</td>' in text


def test_a_header_that_somebody_else_wrote_is_escaped_there_too(
    sidecar: SidecarProcess, nats: NatsProcess
) -> None:
    with RawNatsClient(nats.port) as operator:
        operator.publish("hermes.base", b"{}", {"Hermes-Event-Type": EVIL})
    text = get(sidecar).text
    assert "alert(1)" in text
    assert "<script" not in text


def test_every_reason_fits_on_the_page() -> None:
    for cause in vars(errors).values():
        if isinstance(cause, errors.Cause):
            check = Check("stream", cause.title, cause.remedy)
            assert Reader(render(replace(WELL, checks=[check]))).open == []


def test_what_was_recognised_after_a_restart_of_hermes_is_shown() -> None:
    name = "Sent again by Hermes and recognised"
    assert name not in render(WELL)
    page = render(replace(WELL, recognised_count=80))
    assert f"<dt>{name}</dt><dd>80</dd>" in page


def test_clients_are_shown_with_what_is_known_of_them() -> None:
    clients = [
        Client("hermes-client-ad", "stranded", 7, 35, 61.0, errors.OFFSET_GONE),
        Client("hermes-client-new", "reading", None, None, 0.2),
    ]
    everyone = Everyone([Seen("ldap-1", each) for each in clients], "One & two.")
    page = render(replace(WELL, clients=everyone))
    assert "<td>hermes-client-ad</td><td>ldap-1</td><td>stranded</td>" in page
    assert '<p class="soft">One &amp; two.</p>' in page
    assert "1 min 1 s ago" in page
    assert "None" not in page
    assert "None has read since its sidecar started." in render(WELL)
