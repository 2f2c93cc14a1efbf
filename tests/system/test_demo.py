# SPDX-License-Identifier: Apache-2.0
"""The demo as README shows it."""

from __future__ import annotations

import html
import subprocess
import sys
from typing import TYPE_CHECKING

from system.browser import chromium, opened, screenshot

if TYPE_CHECKING:
    from pathlib import Path

_TERMINAL = """<!doctype html><meta charset="utf-8"><style>
body { margin: 0; padding: 16px; background: #1b1f24; color: #e6e6e6 }
pre { margin: 0; font: 15px/1.35 "DejaVu Sans Mono", monospace }
</style><pre>$ make demo
"""


def test_the_demo_says_that_every_event_stands_in_the_stream(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "sidecar", "demo"],
        check=True,
        capture_output=True,
        text=True,
    )
    assert ran.stdout.splitlines()[-1].startswith("14 of 14 events are in")
    page = tmp_path / "demo.html"
    page.write_text(_TERMINAL + html.escape(ran.stdout), "utf-8")
    with (
        chromium() as browser,
        opened(browser, page.as_uri(), "dark", (700, 460)) as shown,
    ):
        screenshot(tmp_path, shown, "demo")
