# SPDX-License-Identifier: Apache-2.0
"""Debian's chromium without a screen.

With PICTURES set to a directory, screenshots that docs/pictures has are left there.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from PIL import Image

CHROMIUM = "/usr/bin/chromium"
SCHEMES = {"light": 1, "dark": 0}
DOCUMENTED = Path(__file__).resolve().parents[2] / "docs" / "pictures"


def chromium(profile: Path, *arguments: str) -> str:
    """Run it once and give what it printed."""
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
    """Picture a page as NAME.png in a window of so many pixels."""
    file = directory / f"{name}.png"
    chromium(
        directory / "profile",
        f"--blink-settings=preferredColorScheme={SCHEMES[scheme]}",
        f"--window-size={window[0]},{window[1]}",
        f"--screenshot={file}",
        url,
    )
    if "PICTURES" in os.environ and (DOCUMENTED / file.name).exists():
        shutil.copy(file, os.environ["PICTURES"])
    return file


def colours(picture: Path) -> set[str]:
    """Give the colours of a picture, as #rrggbb."""
    with Image.open(picture) as image:
        found = image.convert("RGB").getcolors(image.width * image.height)
    return {"#{:02x}{:02x}{:02x}".format(*colour) for _, colour in found}
