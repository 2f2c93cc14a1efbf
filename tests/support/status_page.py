# SPDX-License-Identifier: Apache-2.0
"""A status page to test, and what stands on one."""

from __future__ import annotations

import re
from html.parser import HTMLParser

from sidecar.http.status_page import StatusView
from sidecar.model.health import Check
from sidecar.services.activity import Row

WELL = StatusView(
    version="1",
    now=0.0,
    checks=[Check("stream", None)],
    stream="hermes",
    server="n1 2.12.0",
    minutes=[0] * 59 + [7],
    rows=[Row(5, "1970-01-01T00:00:00.5Z", "base", "added", "Users", 2048)],
)


class Reader(HTMLParser):
    """Collects what a browser would act upon."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.names: set[str] = set()
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.names |= {name for name, _ in attrs}
        if tag not in ("meta", "link", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def cards(text: str) -> dict[str, dict[str, str]]:
    """Read what each card of a page says."""
    found = re.findall(
        r'<section class="card[^>]*><h2>(\w+)</h2>(.*?)</sec', text, re.DOTALL
    )
    return {
        title: dict(re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", card))
        for title, card in found
    }


def clients(text: str) -> list[tuple[str, str, str]]:
    """Read of each client that a page lists its name, its sidecar and its state."""
    rows = re.findall(r"<tr><td>(.*?)</td></tr>", text, re.DOTALL)
    cells = [re.split(r"</td>\s*<td[^>]*>", row) for row in rows]
    return [(name, sidecar, state) for name, state, *_, sidecar in cells]
