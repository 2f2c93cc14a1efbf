# SPDX-License-Identifier: Apache-2.0
"""ARCHITECTURE.md's code map, compared with the code."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "sidecar"
FILES = {
    file.relative_to(PACKAGE).with_suffix("").as_posix(): file
    for file in PACKAGE.rglob("*.py")
    if "stand_in" not in file.parts and not file.stem.startswith("__")
}
EDGES = {
    "nats": {"jetstream/client", "jetstream/connection", "jetstream/requests"},
    "nkeys": {"jetstream/credentials"},
    "uvicorn": {"http/server", "http/clocks", "http/protocol"},
    "prometheus_client": {"telemetry/metrics"},
    "jinja2": {"http/status_page"},
    "structlog": {"telemetry/log"},
    "pydantic_settings": {"settings"},
    "httpx": {
        *("commands/http_client", "commands/stored_events", "commands/trace"),
        "commands/demo",
    },
}
"""Which modules may import a library of some weight."""


def rows() -> list[tuple[list[str], list[str]]]:
    """Give the rooms of each row of the code map, and the files that it names."""
    text = (ROOT / "ARCHITECTURE.md").read_text("utf-8")
    table = text.partition("## Code map")[2].partition("\n\n`plugin_stub/`")[0]
    lines = re.findall(r"^\| (`[^|]+) \| [^|]+ \| ([^|]*)\|$", table, re.MULTILINE)
    return [
        (re.findall(r"`(\w+)/?`", rooms), re.findall(r"`(\w+)`", files))
        for rooms, files in lines
    ]


def room_of(name: str) -> str:
    return name.partition("/")[0]


def imports(name: str) -> set[str]:
    """Give the dotted names that a module imports, wherever in it."""
    names = set()
    for node in ast.walk(ast.parse(FILES[name].read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module == "sidecar":
            names |= {f"sidecar.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
    return names


def test_the_code_map_names_each_module_once() -> None:
    named = [
        f"{room}/{file}" if file else room
        for rooms, files in rows()
        for room in rooms
        for file in files or [""]
    ]
    assert sorted(named) == sorted(FILES)


@pytest.mark.parametrize("name", FILES)
def test_a_module_imports_only_from_its_row_of_the_code_map_or_above(name: str) -> None:
    above: set[str] = set()
    for rooms, _ in rows():
        above |= set(rooms)
        if room_of(name) in rooms:
            break
    ours = {each.split(".")[1] for each in imports(name) if each[:8] == "sidecar."}
    assert ours - {"__version__"} <= above


@pytest.mark.parametrize("library", EDGES)
def test_a_library_is_imported_at_its_edge_alone(library: str) -> None:
    found = {
        name
        for name in FILES
        if any(each.partition(".")[0] == library for each in imports(name))
    }
    assert found == EDGES[library]


def test_the_sidecar_never_imports_hermes_or_the_plugins() -> None:
    for name in FILES:
        roots = {each.partition(".")[0] for each in imports(name)}
        assert roots.isdisjoint({"lib", "plugins", "plugin_stub"})
