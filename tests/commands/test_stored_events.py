# SPDX-License-Identifier: Apache-2.0
"""Stored events that commands find, by type, key and time: here by `tail`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from support.commands import Run, assert_complaint
from support.process import wait_until
from support.sidecar import SidecarProcess, event, post, sidecar_on

from sidecar.commands import stored_events
from sidecar.commands.http_client import get
from sidecar.model.wanted import Wanted

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx
    from support.nats import NatsProcess

TYPES = ("Users", "Groups")
COUNT = 12


@pytest.fixture(scope="module")
def stream(
    nats: NatsProcess, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SidecarProcess]:
    """Start a sidecar with twelve events, Users and Groups by turns, keys 0 to 5."""
    with sidecar_on(nats, tmp_path_factory.mktemp("stream")) as process:
        with process.client() as http:
            for number in range(COUNT):
                body = event(objtype=TYPES[number % 2], objpkey=number // 2)
                assert post(http, body).status_code == 201
        yield process


@pytest.fixture(params=[2_000, 5], ids=["one page", "more pages"])
def rows(
    run: Run,
    stream: SidecarProcess,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> list[dict[str, object]]:
    monkeypatch.setattr(stored_events, "_PAGE", request.param)
    return find(run, stream, "--from", "first")


def find(run: Run, stream: SidecarProcess, *arguments: str) -> list[dict[str, object]]:
    ran = run("tail", "--json", *arguments, unix_socket=stream.socket)
    assert (ran.returncode, ran.stderr) == (0, "")
    return [json.loads(line) for line in ran.stdout.splitlines()]


@pytest.mark.parametrize("first", [0, 1, 5, 10, 11])
def test_since_begins_with_the_first_event_of_that_time(
    run: Run, stream: SidecarProcess, rows: list[dict[str, object]], first: int
) -> None:
    since = str(rows[first]["timestamp"])
    assert find(run, stream, "--since", since) == rows[first:]


@pytest.mark.parametrize("last", [0, 1, 5, 11])
def test_until_ends_with_the_last_event_of_that_time(
    run: Run, stream: SidecarProcess, rows: list[dict[str, object]], last: int
) -> None:
    until = str(rows[last]["timestamp"])
    assert find(run, stream, "--until", until) == rows[: last + 1]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Give what is asked for; pages are of two events."""
    paths = []

    def get_and_note(http: Any, path: str, **query: Any) -> httpx.Response:
        paths.append(path)
        return get(http, path, **query)

    monkeypatch.setattr(stored_events, "_PAGE", 2)
    monkeypatch.setattr(stored_events, "get", get_and_note)
    return paths


def test_what_is_over_is_not_read(
    run: Run, stream: SidecarProcess, asked: list[str]
) -> None:
    first = find(run, stream, "--from", "first")[0]
    assert len(asked) == COUNT / 2 + 1
    asked.clear()
    assert find(run, stream, "--until", str(first["timestamp"])) == [first]
    assert len(asked) <= 2  # the page that follows is asked for before one is read


def test_the_next_page_is_asked_for_while_one_is_read(
    stream: SidecarProcess, asked: list[str]
) -> None:
    with stream.client() as http:
        pages = stored_events.find(http, "first", Wanted())
        assert len(next(pages)) == 2
        wait_until(lambda: len(asked) == 2, what="the second page is asked for")
        assert sum(map(len, pages)) == COUNT - 2


SLY = json.dumps({"objattrs": {"a": ', {"offset": 7, "data": "jdoe"}'}})
"""What looks as if an event began in it."""


@pytest.mark.parametrize(
    ("texts", "hint", "kept"),
    [
        (["jdoe", "x", "y jdoe", "x", "x"], "jdoe", [0, 2, 4]),
        (["x", "x", "x"], "jdoe", [0, 2]),
        (["x", SLY, SLY, "jdoe", "x"], "jdoe", [0, 1, 2, 3, 4]),
        (["x", SLY, SLY, "other", "x"], "other", [0, 3, 4]),
        (["x", "x", "x"], "", [0, 1, 2]),
        (["x"], "jdoe", [0]),
        ([], "jdoe", []),
    ],
)
def test_events_of_a_page_that_cannot_be_wanted_are_not_parsed(
    texts: list[str], hint: str, kept: list[int]
) -> None:
    rows = [
        {"offset": at, "category": "b", "data": text} for at, text in enumerate(texts)
    ]
    page = {"events": rows, "next_offset": 9, "first_offset": 1, "last_offset": 8}
    short = json.loads(stored_events._shortened(json.dumps(page).encode(), hint))
    assert short == page | {"events": [rows[at] for at in kept]}
    otherwise = json.dumps(page, indent=1).encode()
    assert stored_events._shortened(otherwise, hint) == otherwise


def test_a_type_and_a_key_are_looked_for_in_the_whole_stream(
    run: Run, stream: SidecarProcess, rows: list[dict[str, object]]
) -> None:
    assert find(run, stream, "--type", "Users", "--from", "first") == rows[::2]
    assert find(run, stream, "--key", "0") == rows[:2]
    assert find(run, stream, "--type", "Groups", "--key", "0") == rows[1:2]
    assert find(run, stream, "--since", "1h", "--type", "Users") == rows[::2]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--type", "Rooms"], ["from offset", "--from first"]),
        (["--category", "initsync"], ["from offset", "--from first"]),
        (["--from", "first", "--type", "Rooms"], ["stream holds no such event"]),
        (["--key", "99"], ["stream holds no such event"]),
        (["--until", "1h"], ["stream holds no such event"]),
        (["--since", "0s"], ["from offset"]),
        (["--from", "next", "--type", "Users"], ["after the last one"]),
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("form", [[], ["--json"]])
def test_nothing_that_was_looked_for_is_a_sentence_and_a_status(
    run: Run,
    stream: SidecarProcess,
    form: list[str],
    arguments: list[str],
    words: list[str],
) -> None:
    ran = run("tail", *form, *arguments, unix_socket=stream.socket)
    assert_complaint(ran, 9, *words)
    assert ran.stdout == ""


def test_nothing_after_the_end_is_said_and_is_no_failure(
    run: Run, stream: SidecarProcess
) -> None:
    ran = run("tail", "--from", "next", unix_socket=stream.socket)
    assert (ran.returncode, ran.stdout) == (0, "")
    assert ran.stderr == "There is no event after the last one.\n"


@pytest.mark.parametrize(("arguments", "status"), [([], 0), (["--since", "1h"], 9)])
def test_an_empty_stream_has_nothing(
    run: Run, empty: SidecarProcess, arguments: list[str], status: int
) -> None:
    ran = run("tail", *arguments, unix_socket=empty.socket)
    assert (ran.returncode, ran.stdout) == (status, "")
    assert "event" in ran.stderr


@pytest.fixture(scope="module")
def empty(
    nats: NatsProcess, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SidecarProcess]:
    """Start a sidecar with an empty stream."""
    with sidecar_on(nats, tmp_path_factory.mktemp("empty")) as process:
        yield process
