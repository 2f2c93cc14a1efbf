# SPDX-License-Identifier: Apache-2.0
"""Our pages, as GitHub shows them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def places(page: Path) -> set[str]:
    """Give the names of a page's headings and marks: what a link may name."""
    text = page.read_text("utf-8")
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {
        re.sub(r"[^\w -]", "", each).lower().replace(" ", "-") for each in headings
    } | set(re.findall(r'<a id="([^"]+)">', text))
