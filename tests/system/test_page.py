# SPDX-License-Identifier: Apache-2.0
"""The status page in Debian's chromium: each state, light and dark, on a phone."""

from __future__ import annotations

import re
import time
from datetime import datetime
from typing import TYPE_CHECKING

import pytest
from support.jetstream import RawNatsClient
from support.nats import NatsProcess
from support.process import wait_until
from support.sidecar import SidecarProcess, event, post
from system.browser import SCHEMES, chromium, colours, screenshot

from sidecar.http.status_page import STYLE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

DESKTOP, PHONE = (1000, 1100), (390, 844)


def variables(scheme: str) -> dict[str, str]:
    """Read the colours that the style gives a scheme."""
    light, dark = re.findall(r":root \{(.*?)\}", STYLE, re.DOTALL)
    pairs = re.findall(r"--(\w+): (#\w+)", light if scheme == "light" else dark)
    return {name: whole(value) for name, value in pairs}


def whole(colour: str) -> str:
    short = len(colour) == 4
    return "#" + "".join(digit * 2 for digit in colour[1:]) if short else colour


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4
        for part in parts
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    """Give the contrast ratio of WCAG 2.2."""
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_text_has_the_contrast_that_wcag_asks_for(scheme: str) -> None:
    colour = variables(scheme)
    pairs = [(text, ground) for text in ("text", "soft") for ground in ("page", "card")]
    pairs += [("on", state) for state in ("pass", "warn", "fail")]
    for text, ground in pairs:
        assert contrast(colour[text], colour[ground]) >= 4.5, (text, ground)
    assert contrast(colour["bar"], colour["card"]) >= 3


@pytest.fixture
def nats(tmp_path: Path) -> Iterator[NatsProcess]:
    with NatsProcess(tmp_path / "nats", "nats1") as server:
        yield server


@pytest.fixture
def sidecar(nats: NatsProcess, tmp_path: Path) -> Iterator[SidecarProcess]:
    """Run a sidecar whose stream holds an initsync and some events."""
    settings = {"nats_url": nats.url, "stream_create": True}
    with SidecarProcess(tmp_path / "sidecar", **settings) as process:
        with process.client() as http:
            for kind in ("init-start", *["added"] * 30, "init-stop"):
                assert post(http, event("initsync", eventtype=kind)).status_code == 201
            for kind in ("added", "modified", "removed") * 3:
                assert post(http, event(eventtype=kind)).status_code == 201
        yield process


def page(sidecar: SidecarProcess) -> str:
    return sidecar.get("/").text


def state(sidecar: SidecarProcess) -> str:
    found = re.search(r'class="state (\w+)"', page(sidecar))
    assert found is not None
    return found[1]


def url(sidecar: SidecarProcess) -> str:
    return f"http://127.0.0.1:{sidecar.tcp_port}/"


def unfit(nats: NatsProcess) -> None:
    with RawNatsClient(nats.port) as operator:
        operator.update("hermes", sealed=False, max_msgs_per_subject=1_000_000)


def expiring(nats: NatsProcess) -> None:
    """Choose a retention of which more than three quarters are over, but not all."""
    with RawNatsClient(nats.port) as operator:
        started = operator.api("STREAM.INFO.hermes")["state"]["first_ts"]
        age = time.time() - datetime.fromisoformat(started).timestamp()
        retention = int((age + 100) * 10**9)
        operator.update("hermes", max_age=retention, duplicate_window=10**9)


CASES: dict[str, tuple[Callable[[NatsProcess], object], str, str]] = {
    "ready": (lambda _: None, "pass", "Events can flow."),
    "nats-down": (NatsProcess.kill, "fail", "There is no connection to NATS."),
    "unfit-stream": (unfit, "fail", "max_msgs_per_subject is set"),
    "retention-warning": (expiring, "warn", "expires soon"),
}


@pytest.mark.parametrize("name", CASES)
def test_a_browser_shows_each_state_in_words_and_colour(
    name: str, nats: NatsProcess, sidecar: SidecarProcess, tmp_path: Path
) -> None:
    bring_about, status, words = CASES[name]
    wait_until(lambda: "30 objects" in page(sidecar), what="the initsync is known")
    wait_until(lambda: state(sidecar) == "pass", what="ready")
    bring_about(nats)
    wait_until(lambda: state(sidecar) == status, 400, what=status)
    shown = chromium(tmp_path / "profile", "--dump-dom", url(sidecar))
    assert words in shown
    assert ("not connected" in shown) is (name == "nats-down")
    for scheme, window, suffix in (
        ("light", DESKTOP, ""),
        ("dark", DESKTOP, "-dark"),
        ("light", PHONE, "-phone"),
    ):
        shot = f"status-{name}{suffix}"
        picture = screenshot(tmp_path, url(sidecar), shot, scheme, window)
        painted = {variables(scheme)[each] for each in ("page", status)}
        assert painted <= colours(picture)
