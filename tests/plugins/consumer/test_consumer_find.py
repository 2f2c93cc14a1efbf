# SPDX-License-Identifier: Apache-2.0
"""findNextEventOfCategory, and the time-out of both ways to read."""

from __future__ import annotations

import importlib
import threading
import time
from queue import Queue
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

import pytest
from support.consumer_pages import consumer_of, page
from support.fake_sidecar import NO_ANSWER, BlackHole, Clock, FakeSidecar, problem
from support.process import quickest, wait_until
from support.sidecar import SidecarProcess, last_offset, post

if TYPE_CHECKING:
    from pathlib import Path


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
    hermes_home: Path, fake: FakeSidecar, clock: Clock
) -> None:
    with consumer_of(hermes_home, fake.url, clock) as plugin:
        fake.then(page(9))
        plugin.findNextEventOfCategory("initsync")
    assert "category=initsync" in fake.requests[-1].path


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
    hermes_home: Path, fake: FakeSidecar, clock: Clock
) -> None:
    """Hermes comes again at once: it would do nothing else (case 28)."""
    plugin = consumer_of(hermes_home, fake.url, clock)
    plugin.setTimeout(0)
    fake.then(page())
    iterator = iter(plugin)
    plugin._http.ask_page = asked_with_time(plugin._http.ask_page, clock)
    assert list(iterator) == []
    assert clock.slept == [1]
    assert "wait=1.000" in fake.requests[-1].path
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
    hermes_home: Path, fake: FakeSidecar, clock: Clock
) -> None:
    with consumer_of(hermes_home, fake.url, clock) as plugin:
        plugin.setTimeout(None)
        plugin.seek(7)
        empty = [page(next_offset=7)] * 5
        fake.then(*empty, problem(503, "nats_down", None, "1"), NO_ANSWER, page(7))
        assert next(iter(plugin)).offset == 7


@pytest.mark.parametrize("timeout_ms", [500, 2000])
def test_an_iteration_whose_end_nobody_says_is_raised_after_20_more_seconds(
    hermes_home: Path, fake: FakeSidecar, clock: Clock, timeout_ms: int
) -> None:
    """Hermes would take what it has seen for all there is."""
    with consumer_of(hermes_home, fake.url, clock) as plugin:
        plugin.setTimeout(timeout_ms)
        fake.then(problem(503, "nats_down", None, "1"))
        texts = set()
        for ask in (lambda: list(plugin), lambda: plugin.findNextEventOfCategory("x")):
            started_at = clock.now()
            with pytest.raises(Exception, match="No message bus") as caught:
                ask()
            took_seconds = clock.now() - started_at - timeout_ms / 1000
            assert 18 < took_seconds <= 20
            texts.add(str(caught.value))
        fake.then(NO_ANSWER)
        with pytest.raises(Exception, match="No message bus") as caught:
            list(plugin)
        assert texts == {str(caught.value)}  # whatever the cause: one e-mail


def test_an_end_that_nobody_says_is_raised_soon_though_nothing_answers(
    hermes_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hermes looks at its stop signal only between two passes."""
    with BlackHole() as hole:
        plugin = consumer_of(hermes_home, hole.url)
        module = importlib.import_module(plugin.__module__)
        monkeypatch.setattr(module, "MORE_SECONDS", 2.0)
        plugin.setTimeout(500)
        started_at = time.monotonic()
        with pytest.raises(Exception, match="No message bus"):
            list(plugin)
        assert 2 < time.monotonic() - started_at < 5
        plugin.close()
