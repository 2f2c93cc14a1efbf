# SPDX-License-Identifier: Apache-2.0
"""Every event in order, from a seek on, as Hermes reads it."""

from __future__ import annotations

import importlib
import json
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from support.consumer_pages import SECRET, consumer_of, page
from support.fake_sidecar import Clock, FakeSidecar, problem
from support.hermes import new_event
from support.sidecar import SidecarProcess, event, post

if TYPE_CHECKING:
    from pathlib import Path


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
    fake: FakeSidecar,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")  # as Paris
    time.tzset()
    try:
        with consumer_of(hermes_home, fake.url, clock) as plugin:
            answer = page(7)
            answer.document["events"][0]["timestamp"] = "2026-07-23T09:48:26.948035854Z"
            fake.then(answer)
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
    hermes_home: Path, fake: FakeSidecar, clock: Clock, text: str, microsecond: int
) -> None:
    answer = page(7)
    answer.document["events"][0]["timestamp"] = f"2026-11-23T09:48:{text}"
    with consumer_of(hermes_home, fake.url, clock) as plugin:
        fake.then(answer)
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
    hermes_home: Path, fake: FakeSidecar, clock: Clock
) -> None:
    with consumer_of(hermes_home, fake.url, clock) as plugin:
        fake.then(problem(410, "offset_gone", first_offset=123, last_offset=456))
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
    hermes_home: Path, fake: FakeSidecar, clock: Clock, odd: dict[str, Any]
) -> None:
    with consumer_of(hermes_home, fake.url, clock) as plugin:
        answer = page(1, 2)
        answer.document["events"][1] |= odd
        fake.then(answer)
        events = iter(plugin)
        assert next(events).offset == 1
        with pytest.raises(Exception, match=r"^The message at the next offset"):
            next(events)
        with pytest.raises(
            Exception, match=r"^The message at the next offset"
        ) as caught:
            next(iter(plugin))  # it is never skipped
    assert SECRET not in str(caught.value)
    assert caught.value.__suppress_context__
    assert sum(clock.slept) >= 3


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
    hermes_home: Path, fake: FakeSidecar, clock: Clock, text: str, microsecond: int
) -> None:
    with consumer_of(hermes_home, fake.url, clock) as plugin:
        answer = page(1)
        answer.document["events"][0]["timestamp"] = text
        fake.then(answer)
        seen = next(iter(plugin)).timestamp
    assert seen.tzinfo is None
    expected = datetime(2026, 11, 23, 9, 48, 26, microsecond, UTC)
    assert seen.astimezone(UTC) == expected


def test_the_sidecar_knows_the_client_by_hermes_name_for_it(
    hermes_home: Path, filled: tuple[SidecarProcess, int]
) -> None:
    process, first = filled
    with consumer_of(hermes_home, process.url) as consumer:
        consumer.seek(first + 17)
        assert len(list(consumer)) == 3
    with process.client() as http:
        clients = http.get("/v1/clients").json()["clients"]
    found = next(each for each in clients if each["name"] == "hermes-test")
    assert (found["offset"], found["state"]) == (first + 20, "waiting")
