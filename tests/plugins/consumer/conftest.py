# SPDX-License-Identifier: Apache-2.0
"""A consumer plugin on twenty events, or on a fake in the sidecar's place."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from support.consumer_pages import SECRET, consumer_of, page
from support.fake_sidecar import FakeSidecar
from support.sidecar import SidecarProcess, event, last_offset, post, sidecar_on

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.nats import NatsProcess


@pytest.fixture
def fake() -> Iterator[FakeSidecar]:
    with FakeSidecar(page()) as fake:
        yield fake


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
