# SPDX-License-Identifier: Apache-2.0
"""The status page: what it says, and what it never does."""

from __future__ import annotations

import re
import socket
from base64 import b64encode
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.facts import FACTS
from support.jetstream import RawNatsClient
from support.sidecar import event, last_offset, post
from support.status_page import WELL, Reader, cards, clients

from sidecar import errors
from sidecar.http.status_page import HEADERS, STYLE, duration, render, size
from sidecar.model.clients import Client
from sidecar.model.health import Check, Reading, assess
from sidecar.model.last_hour import LastHour
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
ROOT = Path(__file__).resolve().parents[2]


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
    assert ("Events can flow." in text) is (check.reason is None)
    assert f'class="state {check.status}"' in text
    assert (check.reason or "") in text
    assert (check.remedy or "") in text


def test_failures_stand_before_warnings_and_differ_in_words() -> None:
    checks = [
        *[Check("stream", None), Check("callers", "One.", blocks=False)],
        *[Check("reads", "Two."), Check("writers", "Three.", blocks=False)],
        Check("socket", "Four."),
    ]
    text = render(replace(WELL, checks=checks))
    found = re.findall(r'<section class="check (\w+)">\s*<h2>(\w+: \w+)</h2>', text)
    assert found == [
        *[("fail", "Failure: reads"), ("fail", "Failure: socket")],
        *[("warn", "Warning: callers"), ("warn", "Warning: writers")],
    ]


def test_it_is_said_since_when_a_check_does_not_pass() -> None:
    view = replace(WELL, now=90.0, checks=[Check("stream", "Down.")])
    text = render(replace(view, failing_seconds={"stream": 61.0}))
    assert "Since 1970-01-01T00:00:29Z, for 1 min 1 s" in text
    assert "Since" not in render(view)


def test_each_check_leads_to_its_row_of_the_manual() -> None:
    view = replace(WELL, checks=[Check("stream", "Down.")])
    assert "See docs/operations.md#check-stream" in render(view)
    for url in ("https://example.org/docs", "https://example.org/docs/"):
        text = render(replace(view, docs_url=url))
        assert '<a href="https://example.org/docs/operations.md#check-stream">' in text
    manual = (ROOT / "docs" / "operations.md").read_text("utf-8")
    for check in assess(replace(FACTS, reads=Reading())):
        assert f'<a id="check-{check.name}"></a>' in manual
    assert "## The status page\n" in manual


def test_the_last_hour_is_told_in_words_too() -> None:
    last = LastHour((0.001, 0.01), now=0.0)
    for _ in range(60):
        last.published(1, 0.002, 600.0)
    last.sent(120, 600.0)
    text = render(replace(WELL, hour=last.look(659.999)))
    span = "in the 10 min 59 s since the sidecar started."
    rates = "60 stored, at most 1 a second; 120 sent to readers, at most 2 a second"
    times = "Half of 60 publishes took at most 5.5 ms (p50), 99 % at most 9.91 ms (p99)"
    for words in (rates, times):
        said = text.count(f"{words}; {span}")
        assert said == 2, "once for whoever does not see the chart"
    assert text.count("<figure>") == text.count('role="img"') == 3
    assert Reader(text).open == []
    nothing = render(replace(WELL, hour=LastHour((1.0,), 0.0).look(3600.0)))
    assert "Nothing was published in the last hour." in nothing


def test_whoever_reads_slowly_can_stop_the_refreshing() -> None:
    assert 'http-equiv="refresh"' in render(WELL)
    assert '<a href="?refresh=off">' in render(WELL)
    still = render(replace(WELL, refreshes=False))
    assert 'http-equiv="refresh"' not in still
    assert '<a href="?">' in still


def test_the_page_is_whole_and_asks_for_nothing_else() -> None:
    reader = Reader(render(replace(WELL, docs_url="https://example.org/")))
    assert reader.open == []
    assert not {"script", "link", "img", "iframe", "form"} & set(reader.tags)
    assert not {"src", "style", "onclick", "onload"} & reader.names
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
    evil = replace(WELL, rows=[row], newest=row, checks=[check], stream=EVIL, info=info)
    evil = replace(evil, server_urls=(EVIL,), host=EVIL, role=EVIL, socket=EVIL)
    text = render(replace(evil, server=EVIL, version=EVIL, docs_url=EVIL))
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
    assert cards(text)["Stream"]["Offsets"] == "not known"
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
    shown = cards(response.text)
    assert shown["NATS"]["Server"].startswith(nats.name)
    assert shown["NATS"]["URL"] == nats.url
    assert shown["Sidecar"] == {
        "Host": socket.gethostname(),
        "Role": "both",
        "Unix socket": str(sidecar.socket),
    }
    assert f"<dd>{offset}</dd>" in response.text
    assert "Half of" in response.text
    assert 'http-equiv="refresh"' in response.text
    assert 'http-equiv="refresh"' not in sidecar.get("/?refresh=off").text
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
    assert text.count('<tr class="event">') == 50
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


def test_clients_are_shown_with_what_is_known_of_them() -> None:
    all_clients = [
        Client("hermes-client-ad", "stranded", 7, None, 61.0, errors.OFFSET_GONE),
        Client("hermes-client-new", "reading", None, None, 0.2),
    ]
    everyone = Everyone([Seen("ldap-1", each) for each in all_clients], "One & two.")
    page = render(replace(WELL, clients=everyone))
    assert clients(page) == [
        ("hermes-client-ad", "ldap-1", "stranded"),
        ("hermes-client-new", "ldap-1", "reading"),
    ]
    assert '<td class="right">7</td><td>ldap-1</td>' in page
    assert '<p class="soft">One &amp; two.</p>' in page
    assert "1 min 1 s ago" in page
    assert "None" not in page
    assert "None has read since its sidecar started." in render(WELL)
