# SPDX-License-Identifier: Apache-2.0
"""The consumer plugin's settings, and the class that Hermes looks for."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import pytest
from support.consumer_pages import consumer_of
from support.process import quickest

if TYPE_CHECKING:
    from pathlib import Path


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
