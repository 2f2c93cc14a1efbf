# SPDX-License-Identifier: Apache-2.0
"""The status page in Debian's chromium: each state, light and dark, on a phone.

What it shows is seen with scripts off. axe-core, a script, looks at it afterwards.
"""

from __future__ import annotations

import re
import time
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import pytest
from support.jetstream import RawNatsClient
from support.nats import NatsProcess
from support.process import wait_until
from support.sidecar import SidecarProcess, event, post
from system.browser import (
    Scheme,
    chromium,
    colours,
    complaints,
    opened,
    screenshot,
)

from sidecar.http.status_page import STYLE
from sidecar.model.stream import first_offset

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from playwright.sync_api import Browser, Page

DESKTOP, PHONE = (1000, 1200), (390, 844)
SCHEMES: tuple[Scheme, ...] = ("light", "dark")
VIEWS: tuple[tuple[Scheme, tuple[int, int], str], ...] = (
    ("light", DESKTOP, ""),
    ("dark", DESKTOP, "-dark"),
    ("light", PHONE, "-phone"),
)


def variables(scheme: Scheme) -> dict[str, str]:
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
def test_colours_have_the_contrast_that_wcag_asks_for(scheme: Scheme) -> None:
    colour = variables(scheme)
    pairs = [(text, ground) for text in ("text", "soft") for ground in ("page", "card")]
    pairs += [("on", state) for state in ("pass", "warn", "fail")]
    marked = ("link", "warn", "fail")
    pairs += [(text, ground) for text in marked for ground in ("page", "card")]
    for text, ground in pairs:
        assert contrast(colour[text], colour[ground]) >= 4.5, (text, ground)
    for line in ("bar", "bar2"):
        assert contrast(colour[line], colour["card"]) >= 3


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def nats(tmp_path: Path) -> Iterator[NatsProcess]:
    with NatsProcess(tmp_path / "nats", "nats1") as server:
        yield server


@pytest.fixture
def sidecar(nats: NatsProcess) -> Iterator[SidecarProcess]:
    """Run a sidecar whose stream holds an initsync and some events, with two clients.

    It would make a stream anew that is deleted, had it made this one.
    """
    first, days = first_offset(time.time(), 0), 90
    with RawNatsClient(nats.port) as operator:
        operator.create("hermes", first_seq=first, max_age=days * 86_400 * 10**9)
    settings = {"nats_url": nats.url, "docs_url": "https://example.org/docs/"}
    with (
        TemporaryDirectory(
            prefix="hermes-"
        ) as directory,  # its path is in the pictures
        SidecarProcess(Path(directory), **settings) as process,
    ):
        with process.client() as http:
            for kind in ("init-start", *["added"] * 30, "init-stop"):
                assert post(http, event("initsync", eventtype=kind)).status_code == 201
            for kind in ("added", "modified", "removed") * 3:
                assert post(http, event(eventtype=kind)).status_code == 201
            ask(process, "hermes-client-ldap", first + 41)
            ask(process, "hermes-client-new", first)
        wait_until(lambda: "<dd>30</dd>" in text(process), what="the initsync is known")
        wait_until(lambda: state(process) == "pass", what="ready")
        yield process


def ask(sidecar: SidecarProcess, client: str, offset: int) -> None:
    """Ask for events as this hermes-client."""
    with sidecar.client() as http:
        agent = {"User-Agent": client}
        http.get("/v1/events", params={"offset": offset, "wait": 0}, headers=agent)


def text(sidecar: SidecarProcess) -> str:
    return sidecar.get("/").text


def state(sidecar: SidecarProcess) -> str:
    found = re.search(r'class="state (\w+)"', text(sidecar))
    assert found is not None
    return found[1]


def url(sidecar: SidecarProcess) -> str:
    return f"http://127.0.0.1:{sidecar.tcp_port}/"


def ready(_: NatsProcess, __: SidecarProcess) -> None:
    """Change nothing."""


def down(nats: NatsProcess, _: SidecarProcess) -> None:
    nats.kill()


def unfit(nats: NatsProcess, sidecar: SidecarProcess) -> None:
    """Add a failure to the warning that a client is stranded."""
    ask(sidecar, "hermes-client-old", 5)
    with RawNatsClient(nats.port) as operator:
        operator.update("hermes", sealed=False, max_msgs_per_subject=1_000_000)


def deleted(nats: NatsProcess, _: SidecarProcess) -> None:
    with RawNatsClient(nats.port) as operator:
        operator.delete("hermes")


def expiring(nats: NatsProcess, _: SidecarProcess) -> None:
    """Choose a retention of which more than three quarters are over, but not all."""
    with RawNatsClient(nats.port) as operator:
        started = operator.api("STREAM.INFO.hermes")["state"]["first_ts"]
        age = time.time() - datetime.fromisoformat(started).timestamp()
        retention = int((age + 100) * 10**9)
        operator.update("hermes", max_age=retention, duplicate_window=10**9)


CASES: dict[
    str, tuple[Callable[[NatsProcess, SidecarProcess], None], str, list[str]]
] = {
    "ready": (ready, "pass", ["Events can flow.", "Last event", "1 of 1"]),
    "nats-down": (down, "fail", ["There is no connection to NATS.", "not connected"]),
    "unfit-stream": (unfit, "fail", ["max_msgs_per_subject is set", "1 of 1"]),
    "deleted": (
        deleted,
        "fail",
        ["The stream does not exist.", "Old: seen last", "Last event"],
    ),
    "retention-warning": (expiring, "warn", ["expires soon", "1 of 1"]),
}


@pytest.mark.parametrize("name", CASES)
def test_a_browser_shows_each_state_in_words_and_colour(
    name: str,
    nats: NatsProcess,
    sidecar: SidecarProcess,
    browser: Browser,
    tmp_path: Path,
) -> None:
    bring_about, status, words = CASES[name]
    bring_about(nats, sidecar)
    wait_until(lambda: words[0] in text(sidecar), 400, what=words[0])
    for scheme, window, suffix in VIEWS:
        shot = f"status-{name}{suffix}"
        with opened(browser, url(sidecar), scheme, window, scripts=False) as page:
            shown = page.inner_text("main")
            picture = screenshot(tmp_path, page, shot)
        assert [each for each in words if each not in shown] == []
        assert ("1 of 1" in shown) is ("1 of 1" in words)
        painted = {variables(scheme)[each] for each in ("page", status)}
        assert painted <= colours(picture)
        with opened(browser, f"{url(sidecar)}?refresh=off", scheme, window) as page:
            assert complaints(page) == []
            assert overflows(page) == []
            check_keyboard(page)


def overflows(page: Page) -> list[str]:
    """Give what makes the page wider than its window, and offsets that wrap."""
    found: list[str] = page.evaluate(
        """() => [...document.querySelectorAll("main *")].filter(one => {
            const box = one.getBoundingClientRect()
            const range = document.createRange()
            range.selectNodeContents(one)
            return (box.right > innerWidth && !one.closest(".scroll"))
                || (/^\\d{16}$/.test(one.textContent)
                    && range.getClientRects().length > 1)
        }).map(one => one.outerHTML)"""
    )
    return found


def check_keyboard(page: Page) -> None:
    """See that Tab comes to each link and each table in turn, and shows where it is."""
    wanted = page.locator("a, [tabindex]").evaluate_all(
        "all => all.map(one => one.outerHTML)"
    )
    reached = []
    for _ in wanted:
        page.keyboard.press("Tab")
        html, outline = page.evaluate(
            """() => [document.activeElement.outerHTML,
                      getComputedStyle(document.activeElement).outlineStyle]"""
        )
        reached.append(html)
        assert outline == "solid"
    assert reached == wanted


def test_on_a_phone_an_event_is_told_without_scrolling(
    sidecar: SidecarProcess, browser: Browser
) -> None:
    with opened(browser, url(sidecar), "light", PHONE) as page:
        for column in ("Type", "Object type", "Time"):
            box = page.get_by_role("columnheader", name=column, exact=True)
            ends = box.evaluate("one => one.getBoundingClientRect().right")
            assert ends <= PHONE[0]
