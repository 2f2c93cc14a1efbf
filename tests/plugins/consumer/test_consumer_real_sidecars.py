# SPDX-License-Identifier: Apache-2.0
"""The consumer plugin on real sidecars and streams that come, go and begin anew."""

from __future__ import annotations

import select
import uuid
from typing import TYPE_CHECKING

import pytest
from support.consumer_pages import consumer_of
from support.jetstream import RawNatsClient, wait_jetstream
from support.nats import NatsProcess
from support.process import wait_until
from support.sidecar import post, sidecar_on

if TYPE_CHECKING:
    from pathlib import Path


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
        RawNatsClient(nats.port) as operator,
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
        RawNatsClient(nats.port) as operator,
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
        RawNatsClient(nats.port) as operator,
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
