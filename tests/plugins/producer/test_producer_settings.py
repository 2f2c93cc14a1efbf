# SPDX-License-Identifier: Apache-2.0
"""The producer plugin's settings: what its schema takes and refuses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from support.fake_sidecar import (
    Clock,
    FakeSidecar,
    timed,
)
from support.hermes import load_plugin
from support.producer_passes import FAMILY, a_pass, once, user

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    "settings",
    [
        {"url": "unix:///run/hermes-nats-sidecar/api.sock"},
        {"url": "http://127.0.0.1:8480"},
        {"url": "http://[::1]:8480/"},
        {"url": "https://sidecar.example:8480"},
        {"url": "http://localhost", "token_file": "/t", "send_timeout": 5},
        {"url": "https://localhost", "cafile": "/ca.pem", "unknown_timeout": 1.5},
    ],
)
def test_good_settings_are_accepted_with_their_defaults(
    hermes_home: Path, settings: dict[str, Any]
) -> None:
    plugin = load_plugin(hermes_home, FAMILY, settings)
    assert (
        plugin._settings
        == {
            "send_timeout": 30,
            "unknown_timeout": 60,
            "batch_size": 500,
        }
        | settings
    )


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"url": None},
        {"url": ""},
        {"url": 7},
        {"url": "127.0.0.1:8480"},
        {"url": "ftp://h"},
        {"url": "unix://relative"},
        {"url": "http://"},
        {"url": "http://u:p@h"},
        {"url": "http://h/path"},
        {"url": "http://h?query"},
        {"url": "http://h", "token": "x"},
        {"url": "http://h", "token_file": ""},
        {"url": "http://h", "cafile": None},
        {"url": "http://h", "send_timeout": 0},
        {"url": "http://h", "send_timeout": "30"},
        {"url": "http://h", "unknown_timeout": 3601},
    ],
)
def test_bad_settings_are_refused_by_the_schema(
    hermes_home: Path, settings: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match=r"\{"):
        load_plugin(hermes_home, FAMILY, settings)


@pytest.mark.parametrize("text", ["two\nlines", "sm\xf6rg\xe5s", "tab\there", "\x7f"])
def test_a_token_that_is_none_never_leaves(
    hermes_home: Path, fake: FakeSidecar, clock: Clock, tmp_path: Path, text: str
) -> None:
    file = tmp_path / "token"
    file.write_text(text, "utf-8")
    settings = {"url": fake.url, "token_file": str(file)}
    plugin = timed(load_plugin(hermes_home, FAMILY, settings), clock)
    assert once(plugin) == "No message bus: the plugin's token_file holds no token"
    assert not fake.requests


def test_an_unreadable_token_file_is_named(
    hermes_home: Path, fake: FakeSidecar, clock: Clock, tmp_path: Path
) -> None:
    settings = {"url": fake.url, "token_file": str(tmp_path / "none")}
    plugin = timed(load_plugin(hermes_home, FAMILY, settings), clock)
    assert a_pass(plugin, user()) == (
        "No message bus: the plugin's token_file cannot be read"
    )
    assert fake.requests == []
