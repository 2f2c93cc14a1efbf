# SPDX-License-Identifier: Apache-2.0
"""Debian's chromium without a screen, driven by Playwright, and axe-core in it.

With PICTURES set to a directory, screenshots that docs/pictures has are left there.
"""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import sync_playwright

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, Page

CHROMIUM = "/usr/bin/chromium"
DOCUMENTED = Path(__file__).resolve().parents[2] / "docs" / "pictures"

Scheme = Literal["light", "dark"]


@contextmanager
def chromium() -> Iterator[Browser]:
    """Run it, without a sandbox: tests run as root in a container."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=[
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--no-proxy-server",
            ],
        )
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def opened(
    browser: Browser,
    url: str,
    scheme: Scheme = "light",
    window: tuple[int, int] = (1000, 1100),
    *,
    scripts: bool = True,
) -> Iterator[Page]:
    """Open a page in a window of so many pixels, and see that it asks for no other."""
    context = browser.new_context(
        viewport={"width": window[0], "height": window[1]},
        color_scheme=scheme,
        java_script_enabled=scripts,
    )
    asked: list[str] = []
    context.on("request", lambda request: asked.append(request.url))
    page = context.new_page()
    try:
        page.goto(url)
        yield page
    finally:
        context.close()
    assert set(asked) == {url}


def screenshot(directory: Path, page: Page, name: str) -> Path:
    """Picture what the window shows of a page as NAME.png."""
    file = directory / f"{name}.png"
    page.screenshot(path=file)
    if "PICTURES" in os.environ and (DOCUMENTED / file.name).exists():
        shutil.copy(file, os.environ["PICTURES"])
    return file


def colours(picture: Path) -> set[str]:
    """Give the colours of a picture, as #rrggbb."""
    with Image.open(picture) as image:
        found = image.convert("RGB").getcolors(image.width * image.height)
    return {"#{:02x}{:02x}{:02x}".format(*colour) for _, colour in found}


def complaints(page: Page) -> list[str]:
    """Give what axe-core finds wrong: each rule, and where."""
    violations: list[dict[str, Any]] = Axe().run(page).response["violations"]
    return [
        f"{violation['id']}: {node['html']}"
        for violation in violations
        for node in violation["nodes"]
    ]
