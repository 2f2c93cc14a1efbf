# SPDX-License-Identifier: Apache-2.0
"""docs/administration.fr.md has the sections and commands of its English sources.

Each of its sections begins with a comment that names its source, for example
`<!-- docs/operations.md: The status page; in short -->`. One that is `in short` may
leave code out; else its commands and all of its inline code are those of the source.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from support.markdown import places

ROOT = Path(__file__).resolve().parent.parent
FRENCH = ROOT / "docs" / "administration.fr.md"

ENGLISH_ONLY = {
    "docs/install.md": [
        "Installation",  # the list of its sections
        "From source, with systemd",
        "In a container",
        "On Kubernetes",
        "Behind an HTTP proxy",
        "With SELinux",
    ],
    "docs/operations.md": ["Alerts", "Reasons of /health", "Codes", "Log lines"],
}


class Translation(NamedTuple):
    """A French section, and the file and heading of its source."""

    file: str
    heading: str
    in_short: bool
    text: str

    def source(self) -> str:
        """Give the text of its source."""
        return dict(sections(ROOT / self.file))[self.heading]


def sections(page: Path) -> list[tuple[str, str]]:
    """Give each heading of a page with the text below it, up to the next heading."""
    parts = re.split(r"^#+ (.*)\n", page.read_text("utf-8"), flags=re.MULTILINE)
    return list(zip(parts[1::2], parts[2::2], strict=True))


def translations() -> list[Translation]:
    """Give the French sections: all but the first, which speaks of the page itself."""
    found = []
    for heading, text in sections(FRENCH)[1:]:
        source = re.match(r"<!-- (\S+): (.*?)(; in short)? -->\n", text)
        assert source is not None, f"{heading}: no comment names its source"
        file, english, in_short = source.groups()
        found.append(Translation(file, english, in_short is not None, text))
    return found


def indented(text: str) -> list[str]:
    return re.findall(r"^ {4,}(\S.*)$", text, re.MULTILINE)


def inline(text: str) -> set[str]:
    prose = re.sub(r"^ {4,}.*$", "", text, flags=re.MULTILINE)
    return {" ".join(code.split()) for code in re.findall(r"`([^`]+)`", prose)}


def test_the_french_sections_are_english_ones_in_their_order() -> None:
    found = translations()
    assert {each.file for each in found} == {"README.md", *ENGLISH_ONLY}
    for file in {each.file for each in found}:
        headings = [each.heading for each in found if each.file == file]
        english = [heading for heading, _ in sections(ROOT / file)]
        assert headings == [each for each in english if each in headings], file


def test_an_english_section_is_translated_or_english_only() -> None:
    for file, english_only in ENGLISH_ONLY.items():
        french = [each.heading for each in translations() if each.file == file]
        english = [heading for heading, _ in sections(ROOT / file)]
        assert sorted(english) == sorted(french + english_only), file


def test_a_french_section_has_the_commands_of_its_source() -> None:
    for each in translations():
        source = each.source()
        if each.in_short:
            assert set(indented(each.text)) <= set(indented(source)), each.heading
            assert inline(each.text) <= inline(source), each.heading
        else:
            assert indented(each.text) == indented(source), each.heading
            assert inline(each.text) == inline(source), each.heading


def test_every_link_of_the_french_page_leads_somewhere() -> None:
    text = FRENCH.read_text("utf-8")
    links = re.findall(r"\]\((?!https://)([^)#]*)(?:#([^)]+))?\)", text)
    assert len(links) > 20
    for path, place in links:
        page = FRENCH.parent / path if path else FRENCH
        assert page.exists(), path
        assert not place or place in places(page), (path, place)
