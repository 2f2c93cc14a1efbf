# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import dataclasses
import importlib
import json
import select
import threading
import time
import uuid
from datetime import UTC, datetime, timedelta
from queue import Queue
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

import pytest
from parts.answers import NO_ANSWER, Clock, Mute, Player, Reply, problem, timed
from parts.hermes import load_plugin, new_event
from parts.jetstream import Operator, wait_jetstream
from parts.nats import NatsProcess, free_port
from parts.process import quickest, wait_until
from parts.sidecar import SidecarProcess, event, last_offset, post, sidecar_on

from sidecar import errors
from sidecar.errors import Cause
from sidecar.http.models import GET_EVENTS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FAMILY = "messagebus_consumers"
SECRET = "c0rrect-horse"


@pytest.fixture
def player() -> Iterator[Player]:
    with Player(page()) as player:
        yield player


def consumer_of(
    home: Path, url: str, clock: Clock | None = None, **settings: Any
) -> Any:
    """Load the plugin; with the test's clock its pauses cost nothing."""
    plugin = load_plugin(home, FAMILY, {"url": url} | settings)
    return plugin if clock is None else timed(plugin, clock)


def page(*offsets: int, next_offset: int = 1) -> Reply:
    rows = [
        {
            "offset": offset,
            "timestamp": "2026-11-23T09:48:26.948035854Z",
            "category": "base",
            "data": event(objpkey=offset).decode(),
        }
        for offset in offsets
    ]
    if offsets:
        next_offset = offsets[-1] + 1
    return Reply(
        200,
        {"events": rows, "next_offset": next_offset, "last_offset": next_offset - 1},
    )


@pytest.fixture(scope="module")
def filled(
    nats: NatsProcess, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[SidecarProcess, int]]:
    """Serve twenty events, each third an initsync; with the first offset."""
    with sidecar_on(nats, tmp_path_factory.mktemp("filled")) as process:
        with process.client() as http:
            first = last_offset(http) + 1
            for number in range(20):
                category = "initsync" if number % 3 == 2 else "base"
                attributes = {"password": SECRET, "name": "Zoé Dœuff"}
                body = event(category, objpkey=number, objattrs=attributes)
                assert post(http, body).status_code == 201
        yield process, first


@pytest.fixture
def consumer(hermes_home: Path, filled: tuple[SidecarProcess, int]) -> Iterator[Any]:
    """One open consumer of the twenty events, that waits 0.3 s for more."""
    plugin = consumer_of(hermes_home, filled[0].url)
    plugin._sleep = staticmethod(lambda _: None)
    plugin.setTimeout(300)
    with plugin:
        yield plugin


@pytest.fixture
def one_by_one(consumer: Any) -> Any:
    consumer._settings["batch_size"] = 1
    return consumer


@pytest.fixture
def first(filled: tuple[SidecarProcess, int]) -> int:
    return filled[1]


# -- Settings --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {"batch_size": 1},
        {"batch_size": 5000},
        {"token_file": "/t", "cafile": "/c"},
        {"send_timeout": 30, "unknown_timeout": 60},  # one shape for both plugins
    ],
)
def test_good_settings_are_accepted(
    hermes_home: Path, settings: dict[str, Any]
) -> None:
    consumer_of(hermes_home, "unix:///s", **settings)


@pytest.mark.parametrize(
    "settings",
    [{"batch_size": 0}, {"batch_size": 5001}, {"batch_size": "500"}, {"offset": 7}],
)
def test_bad_settings_are_refused_by_the_schema(
    hermes_home: Path, settings: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match=r"\{"):
        consumer_of(hermes_home, "unix:///s", **settings)


# -- Reading ---------------------------------------------------------------------------


def test_from_the_beginning_every_event_comes_in_order(
    consumer: Any, first: int
) -> None:
    consumer.seekToBeginning()
    events = list(consumer)
    assert [one.offset for one in events] == list(range(first, first + 20))
    assert [one.objpkey for one in events] == list(range(20))
    assert events[0].objattrs["name"] == "Zoé Dœuff"


def test_an_event_has_an_int_offset_and_a_naive_local_time(consumer: Any) -> None:
    consumer.seekToBeginning()
    one = next(iter(consumer))
    assert type(one.offset) is int
    assert type(one.timestamp) is datetime
    assert one.timestamp.tzinfo is None
    now = datetime.now()  # noqa: DTZ005 - Hermes' are naive and local
    assert now - timedelta(minutes=5) < one.timestamp <= now + timedelta(seconds=1)


def test_the_time_of_an_event_is_read_in_local_time(
    hermes_home: Path,
    player: Player,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")  # as Paris
    time.tzset()
    try:
        with consumer_of(hermes_home, player.url, clock) as plugin:
            answer = page(7)
            answer.document["events"][0]["timestamp"] = "2026-07-23T09:48:26.948035854Z"
            player.then(answer)
            one = next(iter(plugin))
    finally:
        monkeypatch.undo()
        time.tzset()
    assert one.timestamp == datetime(2026, 7, 23, 11, 48, 26, 948035)  # noqa: DTZ001


@pytest.mark.parametrize(
    ("text", "microsecond"),
    [("26Z", 0), ("26.5Z", 500_000), ("26.948035854Z", 948_035), ("26.000001Z", 1)],
)
def test_a_time_of_any_number_of_decimals_is_read(
    hermes_home: Path, player: Player, clock: Clock, text: str, microsecond: int
) -> None:
    answer = page(7)
    answer.document["events"][0]["timestamp"] = f"2026-11-23T09:48:{text}"
    with consumer_of(hermes_home, player.url, clock) as plugin:
        player.then(answer)
        one = next(iter(plugin))
    assert (one.timestamp.second, one.timestamp.microsecond) == (26, microsecond)


def test_seek_begins_at_that_offset(consumer: Any, first: int) -> None:
    consumer.seek(first + 7)
    assert [one.offset for one in consumer] == list(range(first + 7, first + 20))


def test_seek_one_past_the_last_is_legal_and_waits(consumer: Any, first: int) -> None:
    consumer.seek(first + 20)
    assert list(consumer) == []


@pytest.mark.parametrize("far", [-1, -1000])
def test_seek_before_the_first_is_an_index_error(
    consumer: Any, first: int, far: int
) -> None:
    with pytest.raises(IndexError):
        consumer.seek(first + far)


@pytest.mark.parametrize("offset", [0, 1, -5])
def test_seek_to_an_offset_of_another_bus_is_an_index_error(
    consumer: Any, offset: int
) -> None:
    with pytest.raises(IndexError):
        consumer.seek(offset)


def test_seek_beyond_the_end_is_an_index_error(consumer: Any, first: int) -> None:
    with pytest.raises(IndexError):
        consumer.seek(first + 22)
    for offset in (2**53 - 1, 2**53, 2**63, 10**30):  # each is told as the first
        with pytest.raises(IndexError):
            consumer.seek(offset)


def test_a_failed_seek_can_be_followed_by_a_good_one(consumer: Any, first: int) -> None:
    with pytest.raises(IndexError):
        consumer.seek(1)
    consumer.seek(first + 19)
    assert [one.offset for one in consumer] == [first + 19]


def test_an_index_error_comes_after_a_pause_and_names_no_offset(
    hermes_home: Path, player: Player, clock: Clock
) -> None:
    with consumer_of(hermes_home, player.url, clock) as plugin:
        player.then(problem(410, "offset_gone", first_offset=123, last_offset=456))
        with pytest.raises(IndexError) as caught:
            plugin.seek(77)
    assert sum(clock.slept) >= 3
    assert not any(number in str(caught.value) for number in ("77", "123", "456"))


def test_iteration_goes_on_where_it_stopped(consumer: Any, first: int) -> None:
    consumer.seekToBeginning()
    for one in consumer:
        if one.offset == first + 4:
            break
    assert next(iter(consumer)).offset == first + 5


def test_the_offset_outlives_close_and_open(
    hermes_home: Path, filled: tuple[SidecarProcess, int]
) -> None:
    process, first = filled
    plugin = consumer_of(hermes_home, process.url)
    plugin.setTimeout(100)
    with plugin:
        plugin.seek(first)
        assert next(iter(plugin)).offset == first
    with plugin:
        assert next(iter(plugin)).offset == first + 1
    plugin.close()


def test_a_small_batch_gives_the_same_events(
    hermes_home: Path, filled: tuple[SidecarProcess, int]
) -> None:
    process, first = filled
    plugin = consumer_of(hermes_home, process.url, batch_size=3)
    plugin.setTimeout(100)
    with plugin:
        plugin.seekToBeginning()
        assert [one.offset for one in plugin] == list(range(first, first + 20))


def test_a_reader_that_pauses_between_two_events_misses_nothing(
    hermes_home: Path, sidecar: SidecarProcess
) -> None:
    with sidecar.client() as http:
        first = post(http).json()["offset"]
        post(http)
        plugin = consumer_of(hermes_home, sidecar.url, batch_size=1)
        plugin.setTimeout(500)
        with plugin:
            plugin.seek(first)
            events = iter(plugin)
            assert next(events).offset == first
            post(http)  # while the client thinks
            assert [one.offset for one in events] == [first + 1, first + 2]


def test_bytes_and_times_in_an_event_are_decoded(
    hermes_home: Path, sidecar: SidecarProcess
) -> None:
    made = new_event("base", "added")
    made.objattrs = {"photo": bytes(range(256)), "born": datetime(2000, 1, 2, 3)}  # noqa: DTZ001
    with sidecar.client() as http:
        offset = post(http, made.to_json().encode()).json()["offset"]
        plugin = consumer_of(hermes_home, sidecar.url)
        with plugin:
            plugin.seek(offset)
            read = next(iter(plugin))
    assert read.objattrs == made.objattrs
    assert read.to_json() == made.to_json()


@pytest.mark.parametrize(
    "attributes",
    [
        '{"name": "L\\u00e9a", "deep": [{"x": null}, "\\ud800"], "n": NaN}',
        '{"name": "Léa", "path": "a\\\\u0048"}',
        '{"control": "\\u0000\\u001f\\u007f", "name": "\\u00C9va"}',
        '{"photo": "HermesBytes(AAEC/w==)"}',
        '{"deep": {"list": ["HermesDatetime(2024-02-29T08:00:00Z)"]}}',
        '{"photo": "\\u0048ermesBytes(AAEC/w==)"}',
        '{"photo": "Her\\u006desBytes(AAEC/w==)"}',
        '{"photo": "Hermes\\u0042ytes(AAEC/w==)", "motto": "Hermes"}',
    ],
)
def test_an_event_is_what_hermes_reads_from_its_text(
    hermes_home: Path, attributes: str
) -> None:
    text = event().decode().replace('"objattrs": {}', f'"objattrs": {attributes}')
    assert attributes in text
    plugin = importlib.import_module(consumer_of(hermes_home, "unix:///x").__module__)
    row = {"offset": 1, "timestamp": "2026-11-23T09:48:26Z", "data": text}

    read, expected = plugin._event(row), plugin.Event.from_json(text)

    assert repr(read.objattrs) == repr(expected.objattrs)
    assert read.to_json() == expected.to_json()


@pytest.mark.parametrize("text", ['{"name": "L\\u00e9a"}', '{"path": "a\\\\b"}'])
def test_most_events_are_spared_the_search_of_each_value(
    hermes_home: Path, text: str
) -> None:
    plugin = importlib.import_module(consumer_of(hermes_home, "unix:///x").__module__)
    assert plugin._document(text) == json.loads(text)


@pytest.mark.parametrize("text", ["", "{", "[]", '"x"', "null"])
def test_what_is_no_event_fails_as_hermes_fails(hermes_home: Path, text: str) -> None:
    plugin = importlib.import_module(consumer_of(hermes_home, "unix:///x").__module__)
    failures = []
    for read in (plugin.Event.from_json, lambda data: plugin._event({"data": data})):
        with pytest.raises(Exception) as failure:  # noqa: PT011 - whatever Hermes does
            read(text)
        failures.append((failure.type, str(failure.value)))
    assert failures[0] == failures[1]


@pytest.mark.parametrize(
    "odd",
    [
        {"data": SECRET},
        {"data": f'["{SECRET}"]'},
        {"data": None},
        {"offset": SECRET},
        {"offset": None},
        {"timestamp": SECRET},
    ],
)
def test_what_is_no_event_is_one_constant_text_after_a_pause(
    hermes_home: Path, player: Player, clock: Clock, odd: dict[str, Any]
) -> None:
    with consumer_of(hermes_home, player.url, clock) as plugin:
        answer = page(1, 2)
        answer.document["events"][1] |= odd
        player.then(answer)
        events = iter(plugin)
        assert next(events).offset == 1
        with pytest.raises(Exception, match=r"^No Hermes event stands"):
            next(events)
        with pytest.raises(Exception, match=r"^No Hermes event stands") as caught:
            next(iter(plugin))  # it is never skipped
    assert SECRET not in str(caught.value)
    assert caught.value.__suppress_context__
    assert sum(clock.slept) >= 3


# -- findNextEventOfCategory -----------------------------------------------------------


def test_the_next_event_of_a_category_is_found_from_here_on(
    consumer: Any, first: int
) -> None:
    consumer.seekToBeginning()
    for number in (2, 5, 8):
        found = consumer.findNextEventOfCategory("initsync")
        assert (found.offset, found.evcategory) == (first + number, "initsync")


def test_after_a_find_iteration_goes_on_with_the_very_next_event(
    consumer: Any, first: int
) -> None:
    consumer.seekToBeginning()
    assert consumer.findNextEventOfCategory("initsync").offset == first + 2
    assert [one.offset for one in consumer] == list(range(first + 3, first + 20))


def test_a_find_in_the_middle_of_an_iteration_starts_at_its_place(
    consumer: Any, first: int
) -> None:
    consumer.seekToBeginning()
    events = iter(consumer)
    assert next(events).offset == first
    assert next(events).offset == first + 1
    assert next(events).offset == first + 2
    assert consumer.findNextEventOfCategory("initsync").offset == first + 5


def test_a_category_that_does_not_come_gives_none_within_the_timeout(
    consumer: Any,
) -> None:
    consumer.seekToBeginning()
    found = []
    took = quickest(lambda: found.append(consumer.findNextEventOfCategory("nothing")))
    assert took < 2
    assert found == [None] * 3


def test_a_find_asks_the_server_to_filter(
    hermes_home: Path, player: Player, clock: Clock
) -> None:
    with consumer_of(hermes_home, player.url, clock) as plugin:
        player.then(page(9))
        plugin.findNextEventOfCategory("initsync")
    assert "category=initsync" in player.requests[-1].path


# -- Timeout ---------------------------------------------------------------------------


@pytest.mark.parametrize("timeout_ms", [1, 500])
def test_iteration_ends_within_the_timeout(consumer: Any, timeout_ms: int) -> None:
    consumer.setTimeout(timeout_ms)
    consumer.seekToBeginning()
    assert len(list(consumer)) == 20
    more: list[Any] = []
    took_seconds = quickest(lambda: more.extend(consumer))
    assert timeout_ms / 1000 - 0.05 <= took_seconds < timeout_ms / 1000 + 0.5
    assert more == []


def test_without_an_update_interval_a_client_asks_once_a_second(
    hermes_home: Path, player: Player, clock: Clock
) -> None:
    """Hermes comes again at once: it would do nothing else (case 28)."""
    plugin = consumer_of(hermes_home, player.url, clock)
    plugin.setTimeout(0)
    player.then(page())
    iterator = iter(plugin)
    plugin._http.ask_page = asked_with_time(plugin._http.ask_page, clock)
    assert list(iterator) == []
    assert clock.slept == [1]
    assert "wait=1.000" in player.requests[-1].path
    plugin.close()


def asked_with_time(ask_page: Any, clock: Clock) -> Any:
    """Let the sidecar take the time that it was asked to wait."""

    def ask(path: str, timeout_seconds: float) -> Any:
        clock.sleep(float(parse_qs(path.partition("?")[2])["wait"][0]))
        return ask_page(path, timeout_seconds)

    return ask


def test_an_event_that_comes_in_time_starts_the_timeout_again(
    hermes_home: Path, sidecar: SidecarProcess, clock: Clock
) -> None:
    with sidecar.client() as http:
        plugin = consumer_of(hermes_home, sidecar.url, clock)
        plugin.setTimeout(1000)
        got: Queue[int] = Queue()

        def read() -> None:
            for one in plugin:
                got.put(one.offset)

        with plugin:
            plugin.seek(last_offset(http) + 1)
            reading = threading.Thread(target=read)
            reading.start()
            for _ in range(3):
                wait_until(lambda: "readers_waiting 1.0" in http.get("/metrics").text)
                clock.seconds += 0.5
                post(http)
                got.get(timeout=20)
            wait_until(lambda: "readers_waiting 1.0" in http.get("/metrics").text)
            clock.seconds += 1
            reading.join(20)
            assert not reading.is_alive()


def test_without_a_timeout_iteration_waits_for_ever(
    hermes_home: Path, player: Player, clock: Clock
) -> None:
    with consumer_of(hermes_home, player.url, clock) as plugin:
        plugin.setTimeout(None)
        plugin.seek(7)
        empty = [page(next_offset=7)] * 5
        player.then(*empty, problem(503, "nats_down", None, "1"), NO_ANSWER, page(7))
        assert next(iter(plugin)).offset == 7


@pytest.mark.parametrize("timeout_ms", [500, 2000])
def test_an_iteration_whose_end_nobody_says_is_raised_after_30_more_seconds(
    hermes_home: Path, player: Player, clock: Clock, timeout_ms: int
) -> None:
    """Hermes would take what it has seen for all there is."""
    with consumer_of(hermes_home, player.url, clock) as plugin:
        plugin.setTimeout(timeout_ms)
        player.then(problem(503, "nats_down", None, "1"))
        texts = set()
        for ask in (lambda: list(plugin), lambda: plugin.findNextEventOfCategory("x")):
            started_at = clock.now()
            with pytest.raises(Exception, match="No message bus") as caught:
                ask()
            took_seconds = clock.now() - started_at - timeout_ms / 1000
            assert 28 < took_seconds <= 30
            texts.add(str(caught.value))
        player.then(NO_ANSWER)
        with pytest.raises(Exception, match="No message bus") as caught:
            list(plugin)
        assert texts == {str(caught.value)}  # whatever the cause: one e-mail


def test_an_end_that_nobody_says_is_raised_soon_though_nothing_answers(
    hermes_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hermes looks at its stop signal only between two passes."""
    with Mute() as mute:
        plugin = consumer_of(hermes_home, mute.url)
        module = importlib.import_module(plugin.__module__)
        monkeypatch.setattr(module, "MORE_SECONDS", 2.0)
        plugin.setTimeout(500)
        started_at = time.monotonic()
        with pytest.raises(Exception, match="No message bus"):
            list(plugin)
        assert 2 < time.monotonic() - started_at < 5
        plugin.close()


# -- Trouble ---------------------------------------------------------------------------


def test_open_without_a_sidecar_raises_one_constant_text(
    hermes_home: Path, clock: Clock
) -> None:
    plugin = consumer_of(hermes_home, f"http://127.0.0.1:{free_port()}", clock)
    texts = set()
    ends_at = clock.now() + 600
    while clock.now() < ends_at:
        with pytest.raises(Exception, match="No message bus") as caught:
            plugin.open()
        assert not isinstance(caught.value, IndexError)
        texts.add(str(caught.value))
    assert texts == {"No message bus: no sidecar can be reached at the plugin's url"}


def test_open_waits_some_seconds_for_a_sidecar_that_restarts(
    hermes_home: Path, player: Player, clock: Clock
) -> None:
    plugin = consumer_of(hermes_home, player.url, clock)
    down = problem(503, "nats_down", None, "2")
    player.then(down, down, page())
    with plugin:
        pass
    assert clock.slept == [2, 2]


HTML = "<html><body>Bad Gateway</body></html>"
CUT = dataclasses.replace(page(1, 2, 3), missing_bytes=200)
CUT_UNSEEN = Reply(200, text=json.dumps(page(1, 2, 3).document)[:-200])
NOT_YET = Reply(200, {"events": [], "next_offset": 1, "last_offset": 1})
"""In the stream, and the copy that was asked does not have it."""


def failed_slowly(code: str) -> Reply:
    """Answer as a page that had begun with 200 before it failed."""
    failed = problem(503, code)
    return Reply(200, failed.document | {"status": 503})


ANSWERS: dict[str, list[Reply | str]] = {
    # What waiting mends: the plugin asks again.
    "passing": [
        *("busy", "credentials_unreadable", "foreign_answer", "jetstream_unavailable"),
        *("nats_down", failed_slowly("jetstream_unavailable")),
        *("nats_limit", "nats_permission", "nats_refused", "nats_tls"),
        "publish_refused",
        *("server_too_old", "stopping", "storage_full", "stream_full"),
        *("stream_missing", "stream_unfit", NO_ANSWER, CUT, CUT_UNSEEN),
        *(Reply(status, text=HTML) for status in (200, 401, 404, 500, 502, 503, 504)),
        *(Reply(200, text=text) for text in ("", "{}", "[]", '{"code": 0}')),
        *(Reply(200, {"last_offset": each}) for each in (None, "7", True, 7)),
        Reply(401, {"code": 401}),
        Reply(200, {"events": None, "next_offset": 1, "last_offset": 0}),
        Reply(200, {"events": [], "next_offset": None, "last_offset": 0}),
        Reply(200, {"events": [], "next_offset": 1}),
    ],
    # The client's offset is gone: Hermes knows IndexError.
    "not in the stream": ["offset_ahead", "offset_gone"],
    # As a token that is changed on one side first.
    "passing for some seconds": ["unauthorized"],
    # What a person must mend.
    "final": [
        *("api_off", "displaced", "hole", "malformed_json", "malformed_key"),
        *("unreadable", failed_slowly("unreadable")),
        *("malformed_precondition", "malformed_query", "no_key"),
        *("wrong_host", "wrong_role", problem(404, "not_found")),
        *(problem(500, "internal"), problem(405, "method_not_allowed")),
    ],
}
CAUSES = {each.code: each for each in vars(errors).values() if isinstance(each, Cause)}


def answers(kind: str) -> list[Reply | str]:
    """Give those of a kind; a code stands for its problem, as the sidecar says it."""
    return [
        problem(CAUSES[each].status, each)
        if isinstance(each, str) and each in CAUSES
        else each
        for each in ANSWERS[kind]
    ]


def name_of(answer: Reply | str) -> str:
    if isinstance(answer, str):
        return answer
    name = answer.document.get("code") or answer.text or "page"
    return f"{answer.status} {name}"[:30]


def test_each_answer_to_a_reader_stands_in_the_table() -> None:
    statuses = set(GET_EVENTS)
    possible = {code for code, each in CAUSES.items() if each.status in statuses}
    rows = [row for rows in ANSWERS.values() for row in rows]
    assert possible == {row for row in rows if isinstance(row, str)} - {NO_ANSWER}


@pytest.mark.parametrize(
    "answer", answers("passing") + answers("passing for some seconds"), ids=name_of
)
def test_what_passes_is_asked_again_and_nothing_is_missed(
    hermes_home: Path, player: Player, clock: Clock, answer: Any
) -> None:
    plugin = consumer_of(hermes_home, player.url, clock)
    plugin._timeout_seconds = 0.0  # even so
    player.then(answer, page())
    with plugin:
        player.then(answer, page(1))
        plugin.seek(1)
        player.then(answer, page(2, 3))
        events = iter(plugin)
        assert [next(events).offset for _ in range(3)] == [1, 2, 3]
        player.then(answer, answer, page(next_offset=4))
        assert list(events) == []
        player.then(answer, page(7))
        assert plugin.findNextEventOfCategory("base").offset == 7
        player.then(answer, page(next_offset=9))
        assert plugin.findNextEventOfCategory("base") is None
        assert plugin._offset == 8
    assert sum(clock.slept) < 20


@pytest.mark.parametrize("answer", answers("passing"), ids=name_of)
def test_what_does_not_pass_is_raised_in_time_and_never_spins(
    hermes_home: Path, player: Player, clock: Clock, answer: Any
) -> None:
    plugin = consumer_of(hermes_home, player.url, clock)
    for ask, seconds in (
        (plugin.open, 15),
        (lambda: plugin.seek(7), 15),
        (lambda: list(plugin), 31),
        (lambda: plugin.findNextEventOfCategory("base"), 31),
    ):
        player.then(answer)
        asked, started_at = len(player.requests), clock.now()
        with pytest.raises(Exception, match=r"^No message bus: ") as caught:
            ask()
        assert not isinstance(caught.value, IndexError)
        limit = min(seconds, 21) if "is no sidecar" in str(caught.value) else seconds
        assert limit - 3 < clock.now() - started_at <= limit
        assert len(player.requests) - asked < 200
    plugin.close()


@pytest.mark.parametrize("answer", answers("passing for some seconds"), ids=name_of)
def test_what_passes_for_some_seconds_is_then_told(
    hermes_home: Path, player: Player, clock: Clock, answer: Any
) -> None:
    plugin = consumer_of(hermes_home, player.url, clock)
    player.then(answer)
    texts = set()
    for ask in (
        plugin.open,
        lambda: plugin.seek(7),
        lambda: list(plugin),
        lambda: plugin.findNextEventOfCategory("base"),
    ):
        started_at = clock.now()
        with pytest.raises(Exception, match=r"^No message bus: ") as caught:
            ask()
        texts.add(str(caught.value))
        assert 14 < clock.now() - started_at <= 15
    (text,) = texts
    assert "unauthorized" in text
    plugin.close()


@pytest.mark.parametrize("answer", answers("not in the stream"), ids=name_of)
def test_what_is_not_in_the_stream_is_an_index_error_after_a_pause(
    hermes_home: Path, player: Player, clock: Clock, answer: Any
) -> None:
    plugin = consumer_of(hermes_home, player.url, clock)
    player.then(answer)
    for ask in (lambda: plugin.seek(7), lambda: list(plugin)):
        started_at = clock.now()
        with pytest.raises(IndexError, match=r"^Offset not in the stream: "):
            ask()
        assert clock.now() - started_at == 5
    plugin.close()


@pytest.mark.parametrize("answer", answers("final"), ids=name_of)
def test_what_a_person_must_mend_is_raised_after_a_pause(
    hermes_home: Path, player: Player, clock: Clock, answer: Any
) -> None:
    plugin = consumer_of(hermes_home, player.url, clock)
    player.then(answer)
    for ask in (plugin.open, lambda: plugin.seek(7), lambda: list(plugin)):
        started_at = clock.now()
        with pytest.raises(Exception, match=r"^No message bus: ") as caught:
            ask()
        assert not isinstance(caught.value, IndexError)
        assert clock.now() - started_at == 5  # Hermes would try again at once
    plugin.close()


@pytest.mark.parametrize("category", [None, "base"])
def test_a_page_without_events_that_is_not_the_end_is_none(
    hermes_home: Path, player: Player, clock: Clock, category: str | None
) -> None:
    """The copy that was asked lags, or is none of the stream."""
    with consumer_of(hermes_home, player.url, clock) as plugin:
        plugin._timeout_seconds = 0.0
        player.then(*[NOT_YET] * 20, page(1), page(next_offset=2))
        if category is None:
            assert [one.offset for one in plugin] == [1]
        else:
            assert plugin.findNextEventOfCategory(category).offset == 1
        assert sum(clock.slept) > 2  # and it does not spin


@pytest.mark.parametrize("wrong", [page(8), page(7, 9), page(6, 7), page(7, 7)])
def test_a_page_that_is_not_at_the_offset_or_has_a_hole_is_none(
    hermes_home: Path, player: Player, clock: Clock, wrong: Reply
) -> None:
    with consumer_of(hermes_home, player.url, clock) as plugin:
        player.then(page(next_offset=7))
        plugin._timeout_seconds = 0.0
        plugin.seek(7)
        player.then(wrong, page(7, 8), page(next_offset=9))
        assert [one.offset for one in plugin] == [7, 8]


def test_whatever_an_answer_asks_for_the_pause_is_some_seconds(
    hermes_home: Path, player: Player, clock: Clock
) -> None:
    with consumer_of(hermes_home, player.url, clock) as plugin:
        player.then(problem(503, "nats_down", None, "3600"), page(1))
        assert next(iter(plugin)).offset == 1
    assert clock.slept == [5]


def test_an_end_that_was_said_before_an_outage_is_none_after_it(
    hermes_home: Path, player: Player, clock: Clock
) -> None:
    """What was stored meanwhile stands after it."""
    with consumer_of(hermes_home, player.url, clock) as plugin:
        plugin.setTimeout(2000)
        player.then(page(next_offset=7), *[NO_ANSWER] * 20, page(7), problem(410, "x"))
        assert next(iter(plugin)).offset == 7


def test_a_page_asked_ahead_that_was_cut_ends_nothing(
    hermes_home: Path, player: Player, clock: Clock
) -> None:
    with consumer_of(hermes_home, player.url, clock) as plugin:
        plugin._timeout_seconds = 0.0
        cut = dataclasses.replace(page(2, 3), missing_bytes=100)
        player.then(more(1, last=3), cut, page(2, 3), page(next_offset=4))
        assert [one.offset for one in plugin] == [1, 2, 3]


def test_a_failed_find_leaves_the_offset_where_it_was(
    hermes_home: Path, player: Player, clock: Clock
) -> None:
    with consumer_of(hermes_home, player.url, clock) as plugin:
        player.then(page(5))
        assert next(iter(plugin)).offset == 5
        looked = Reply(200, {"events": [], "next_offset": 90, "last_offset": 95})
        for last in (problem(410, "offset_gone"), NO_ANSWER):
            player.then(looked, last)
            with pytest.raises(Exception, match=r"."):
                plugin.findNextEventOfCategory("base")
            assert plugin._offset == 6


def test_a_hole_is_raised_and_never_skipped(
    hermes_home: Path, player: Player, clock: Clock
) -> None:
    with consumer_of(hermes_home, player.url, clock) as plugin:
        player.then(page(1, 2), problem(503, "hole", None, "5", offset=3))
        events = iter(plugin)
        assert [next(events).offset, next(events).offset] == [1, 2]
        with pytest.raises(Exception, match=r"No message bus: .*hole"):
            next(events)
    assert sum(clock.slept) >= 3  # Hermes would try again at once


def test_an_offset_that_vanishes_in_an_iteration_is_an_index_error_after_a_pause(
    hermes_home: Path, player: Player, clock: Clock
) -> None:
    with consumer_of(hermes_home, player.url, clock) as plugin:
        player.then(page(1), problem(410, "offset_gone"))
        events = iter(plugin)
        assert next(events).offset == 1
        with pytest.raises(IndexError):
            next(events)
    assert sum(clock.slept) >= 3


def more(*offsets: int, last: int) -> Reply:
    """Give a page that is not the stream's last, and the link to the next."""
    answer = page(*offsets)
    answer.document["last_offset"] = last
    query = f"offset={offsets[-1] + 1}&limit=500&max_bytes=262144"
    answer.headers["Link"] = f'</v1/events?{query}>; rel="next"'
    return answer


def test_the_next_page_is_asked_for_while_this_one_is_handled(
    hermes_home: Path, player: Player, clock: Clock
) -> None:
    with consumer_of(hermes_home, player.url, clock) as plugin:
        player.then(more(1, 2, last=3), page(3))
        events = iter(plugin)
        next(events)
        wait_until(lambda: len(player.requests) == 3, what="asked ahead")  # 1: open()
        assert [next(events).offset, next(events).offset] == [2, 3]
        assert "offset=3&" in player.requests[2].path
        assert len(player.requests) == 3  # what was asked ahead was taken


def test_without_a_link_pages_are_asked_for_one_by_one(
    hermes_home: Path, player: Player, clock: Clock
) -> None:
    with consumer_of(hermes_home, player.url, clock) as plugin:
        player.then(page(1, 2), page(3))
        events = iter(plugin)
        next(events)
        next(events)
        assert len(player.requests) == 2  # 1: open()
        assert next(events).offset == 3


def test_a_link_to_elsewhere_is_not_mistaken_for_the_next_page(
    hermes_home: Path, player: Player, clock: Clock
) -> None:
    with consumer_of(hermes_home, player.url, clock) as plugin:
        wrong = more(1, last=9)
        wrong.headers["Link"] = '</v1/events?offset=7>; rel="next"'
        player.then(wrong, page(7), page(2))
        events = iter(plugin)
        first = next(events).offset
        wait_until(lambda: len(player.answers) == 1, what="asked ahead")
        assert [first, next(events).offset] == [1, 2]


@pytest.mark.parametrize(
    ("text", "microsecond"),
    [
        ("2026-11-23T09:48:26Z", 0),
        ("2026-11-23T09:48:26.5Z", 500_000),
        ("2026-11-23T09:48:26.948035Z", 948_035),
        ("2026-11-23T09:48:26.948035854Z", 948_035),
        ("2026-11-23T09:48:26.000000999Z", 0),
    ],
)
def test_a_timestamp_is_local_time_to_the_microsecond(
    hermes_home: Path, player: Player, clock: Clock, text: str, microsecond: int
) -> None:
    with consumer_of(hermes_home, player.url, clock) as plugin:
        answer = page(1)
        answer.document["events"][0]["timestamp"] = text
        player.then(answer)
        seen = next(iter(plugin)).timestamp
    assert seen.tzinfo is None
    expected = datetime(2026, 11, 23, 9, 48, 26, microsecond, UTC)
    assert seen.astimezone(UTC) == expected


def test_a_seek_forgets_what_was_asked_ahead(one_by_one: Any, first: int) -> None:
    assert next(iter(one_by_one)).offset == first
    one_by_one.seek(first + 10)
    assert [one.offset for one in one_by_one] == list(range(first + 10, first + 20))


def test_a_find_forgets_what_was_asked_ahead(one_by_one: Any, first: int) -> None:
    assert next(iter(one_by_one)).offset == first
    assert one_by_one.findNextEventOfCategory("nobody") is None
    assert [one.offset for one in one_by_one] == list(range(first + 1, first + 20))


def test_what_was_asked_ahead_in_vain_is_asked_again(
    hermes_home: Path, player: Player, clock: Clock
) -> None:
    with consumer_of(hermes_home, player.url, clock) as plugin:
        player.then(
            more(1, last=2), problem(503, "nats_down", None, "1"), NO_ANSWER, page(2)
        )
        plugin.setTimeout(10_000)
        events = iter(plugin)
        assert [next(events).offset, next(events).offset] == [1, 2]


def test_a_sidecar_killed_in_an_iteration_is_waited_for_and_nothing_is_missed(
    hermes_home: Path, nats: NatsProcess, tmp_path: Path
) -> None:
    with sidecar_on(nats, tmp_path) as process:
        with process.client() as http:
            first = post(http).json()["offset"]
            post(http)
        plugin = consumer_of(hermes_home, process.url, batch_size=1)
        plugin.setTimeout(15_000)
        with plugin:
            plugin.seekToBeginning()
            events = iter(plugin)
            assert next(events).offset == first
            process.kill()
            process.start()
            assert next(events).offset == first + 1
            process.wait_ready()
            with process.client() as http:
                post(http)
            assert next(events).offset == first + 2


def test_nats_killed_in_an_iteration_is_waited_for_and_nothing_is_missed(
    hermes_home: Path, tmp_path: Path
) -> None:
    with NatsProcess(tmp_path / "nats") as own:
        wait_jetstream(own.port)
        with sidecar_on(own, tmp_path / "s") as process, process.client() as http:
            first = post(http).json()["offset"]
            post(http)
            plugin = consumer_of(hermes_home, process.url, batch_size=1)
            plugin.setTimeout(15_000)
            with plugin:
                plugin.seekToBeginning()
                events = iter(plugin)
                assert next(events).offset == first
                own.kill()
                own.start()
                assert next(events).offset == first + 1


def test_an_empty_stream_opens_and_gives_nothing_until_something_comes(
    hermes_home: Path, nats: NatsProcess, tmp_path: Path
) -> None:
    with sidecar_on(nats, tmp_path) as process, process.client() as http:
        plugin = consumer_of(hermes_home, process.url)
        plugin.setTimeout(100)
        for _ in range(2):
            with plugin:
                plugin.seekToBeginning()
                assert list(plugin) == []
                assert plugin.findNextEventOfCategory("initsync") is None
        with plugin:
            offset = post(http).json()["offset"]
            assert [one.offset for one in plugin] == [offset]


def test_a_stream_emptied_by_age_goes_on_at_its_next_event(
    hermes_home: Path, nats: NatsProcess, tmp_path: Path
) -> None:
    name = f"s{uuid.uuid4().hex[:12]}"
    with (
        Operator(nats.port) as operator,
        sidecar_on(nats, tmp_path, name) as process,
        process.client() as http,
    ):
        last = [post(http).json()["offset"] for _ in range(3)][-1]
        operator.update(name, max_age=100_000_000, duplicate_window=100_000_000)
        wait_until(lambda: operator.state(name)["messages"] == 0, what="aged out")
        operator.update(name, max_age=0)
        plugin = consumer_of(hermes_home, process.url)
        plugin._sleep = staticmethod(lambda _: None)
        plugin.setTimeout(300)
        with plugin:
            plugin.seek(last + 1)
            assert list(plugin) == []
            with pytest.raises(IndexError):
                plugin.seek(last)
            plugin.seekToBeginning()
            assert post(http).json()["offset"] == last + 1
            assert [one.offset for one in plugin] == [last + 1]


def test_retention_that_passes_a_sleeping_reader_is_an_index_error(
    hermes_home: Path, nats: NatsProcess, tmp_path: Path
) -> None:
    name = f"s{uuid.uuid4().hex[:12]}"
    with (
        Operator(nats.port) as operator,
        sidecar_on(nats, tmp_path, name) as process,
        process.client() as http,
    ):
        for _ in range(3):
            post(http)
        plugin = consumer_of(hermes_home, process.url, batch_size=1)
        plugin._sleep = staticmethod(lambda _: None)
        with plugin:
            plugin.seekToBeginning()
            events = iter(plugin)
            next(events)
            # The one after it has been asked for, and has come.
            assert select.select([plugin._http._socket], [], [], 20)[0]
            operator.update(name, max_age=100_000_000, duplicate_window=100_000_000)
            wait_until(lambda: operator.state(name)["messages"] == 0, what="aged out")
            next(events)
            with pytest.raises(IndexError):
                next(events)


def test_a_stream_made_anew_is_an_index_error_and_never_silence(
    hermes_home: Path, nats: NatsProcess, tmp_path: Path
) -> None:
    name = f"s{uuid.uuid4().hex[:12]}"
    with (
        Operator(nats.port) as operator,
        sidecar_on(nats, tmp_path, name) as process,
        process.client() as http,
    ):
        offset = post(http).json()["offset"]
        plugin = consumer_of(hermes_home, process.url)
        plugin._sleep = staticmethod(lambda _: None)
        plugin.setTimeout(100)
        with plugin:
            plugin.seek(offset + 1)
            operator.delete(name)

            def is_new() -> bool:
                answer = http.get("/v1/stream")
                return answer.is_success and answer.json()["messages"] == 0

            wait_until(is_new, what="made anew")
            with pytest.raises(IndexError):
                plugin.seek(offset + 1)
            with pytest.raises(IndexError):
                list(plugin)


def test_open_is_cheap(consumer: Any) -> None:
    consumer.close()

    def open_often() -> None:
        for _ in range(20):
            with consumer:
                pass

    assert quickest(open_often) < 2


def test_the_class_is_the_one_that_hermes_looks_for(hermes_home: Path) -> None:
    del hermes_home
    plugins = importlib.import_module("lib.plugins")
    for family, base in (
        ("messagebus_consumers", plugins.AbstractMessageBusConsumerPlugin),
        ("messagebus_producers", plugins.AbstractMessageBusProducerPlugin),
    ):
        module = importlib.import_module(f"plugins.{family}.nats_sidecar.nats_sidecar")
        assert issubclass(getattr(module, module.HERMES_PLUGIN_CLASSNAME), base)
