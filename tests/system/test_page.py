# SPDX-License-Identifier: Apache-2.0
"""The status page in Debian's chromium: each state, light and dark, on a phone.

With PICTURES set to a directory, the screenshots are left there, for the docs.
"""

from __future__ import annotations

import os
import re
import shutil
import struct
import subprocess
import time
import zlib
from datetime import datetime
from typing import TYPE_CHECKING

import httpx
import pytest
from parts.jetstream import Operator
from parts.nats import NatsProcess
from parts.process import wait_until
from parts.sidecar import SidecarProcess, event, post

from sidecar.page import STYLE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CHROMIUM = "/usr/bin/chromium"
DESKTOP, PHONE = (1000, 1100), (390, 844)
SCHEMES = {"light": 1, "dark": 0}


def chromium(profile: Path, *arguments: str) -> str:
    done = subprocess.run(
        [
            CHROMIUM,
            "--headless=new",
            "--no-sandbox",  # tests run as root in a container
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--hide-scrollbars",
            "--no-first-run",
            "--no-proxy-server",
            f"--user-data-dir={profile}",
            *arguments,
        ],
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def screenshot(
    directory: Path, url: str, name: str, scheme: str, window: tuple[int, int]
) -> Path:
    file = directory / f"{name}.png"
    chromium(
        directory / "profile",
        f"--blink-settings=preferredColorScheme={SCHEMES[scheme]}",
        f"--window-size={window[0]},{window[1]}",
        f"--screenshot={file}",
        url,
    )
    if "PICTURES" in os.environ and name in PICTURED:
        shutil.copy(file, os.environ["PICTURES"])
    return file


def colours(picture: Path) -> set[str]:
    """Give the colours of a PNG of 8 bits a channel, as #rrggbb."""
    data = picture.read_bytes()
    width, height, depth, kind = struct.unpack(">IIBB", data[16:26])
    assert depth == 8
    channels = {2: 3, 6: 4}[kind]
    packed, at = b"", 8
    while at < len(data):
        (size,) = struct.unpack(">I", data[at : at + 4])
        if data[at + 4 : at + 8] == b"IDAT":
            packed += data[at + 8 : at + 8 + size]
        at += size + 12
    raw, stride = zlib.decompress(packed), width * channels
    above, found = bytes(stride), set()
    for row in range(height):
        start = row * (stride + 1)
        above = unfilter(
            raw[start], raw[start + 1 : start + 1 + stride], above, channels
        )
        found |= {above[i : i + 3] for i in range(0, stride, channels)}
    return {f"#{colour.hex()}" for colour in found}


def unfilter(kind: int, line: bytes, above: bytes, channels: int) -> bytes:
    """Undo the filter of one line of a PNG (its specification, chapter 9)."""
    out = bytearray(line)
    for i, value in enumerate(line):
        a = out[i - channels] if i >= channels else 0
        b = above[i]
        c = above[i - channels] if i >= channels else 0
        distances = abs(b - c), abs(a - c), abs(a + b - 2 * c)
        nearest = (a, b, c)[distances.index(min(distances))]
        out[i] = (value + (0, a, b, (a + b) // 2, nearest)[kind]) & 255
    return bytes(out)


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
    return httpx.get(url(sidecar), trust_env=False).text


def state(sidecar: SidecarProcess) -> str:
    found = re.search(r'class="state (\w+)"', page(sidecar))
    assert found is not None
    return found[1]


def url(sidecar: SidecarProcess) -> str:
    return f"http://127.0.0.1:{sidecar.tcp_port}/"


def unfit(nats: NatsProcess) -> None:
    with Operator(nats.port) as operator:
        operator.update("hermes", sealed=False, max_msgs_per_subject=1_000_000)


def expiring(nats: NatsProcess) -> None:
    """Choose a retention of which more than three quarters are over, but not all."""
    with Operator(nats.port) as operator:
        started = operator.api("STREAM.INFO.hermes")["state"]["first_ts"]
        age = time.time() - datetime.fromisoformat(started).timestamp()
        retention = int((age + 100) * 10**9)
        operator.update("hermes", max_age=retention, duplicate_window=10**9)


CASES = {
    "ready": (lambda _: None, "pass", "Events can flow."),
    "nats-down": (NatsProcess.kill, "fail", "There is no connection to NATS."),
    "unfit-stream": (unfit, "fail", "max_msgs_per_subject is set"),
    "retention-warning": (expiring, "warn", "leaves the stream soon"),
}
PICTURED = {"status-ready-dark", "status-ready-phone", *(f"status-{n}" for n in CASES)}


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
        picture = screenshot(
            tmp_path, url(sidecar), f"status-{name}{suffix}", scheme, window
        )
        assert {variables(scheme)[each] for each in ("page", status)} <= colours(
            picture
        )
