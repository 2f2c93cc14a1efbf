# SPDX-License-Identifier: Apache-2.0
"""ARCHITECTURE.md's code map, compared with the code."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "sidecar"
MODULES = sorted(file.stem for file in PACKAGE.glob("*.py") if file.stem[0] != "_")
EDGES = {
    "nats": {"jetstream", "nats_client"},
    "nkeys": {"login"},
    "uvicorn": {"serve", "protocol"},
    "prometheus_client": {"metrics"},
    "structlog": {"log"},
    "pydantic_settings": {"settings"},
    "httpx": {"probe", "tail", "demo"},
}
"""Which modules may import a library of some weight."""


def rows() -> list[list[str]]:
    """Give the modules of each row of the code map, in its order."""
    text = (ROOT / "ARCHITECTURE.md").read_text("utf-8")
    table = text.partition("## Code map")[2].partition("\n## ")[0]
    firsts = re.findall(r"^\| (`[^|]+) \|", table, re.MULTILINE)
    return [re.findall(r"`(\w+)`", first) for first in firsts]


def imports(module: str) -> set[str]:
    """Give the dotted names that a module imports, wherever in it."""
    tree = ast.parse((PACKAGE / f"{module}.py").read_text("utf-8"))
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module == "sidecar":
            names |= {f"sidecar.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
    return names


def test_the_code_map_names_each_module_once() -> None:
    assert sorted(name for row in rows() for name in row) == MODULES


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_what_stands_above_it_in_the_code_map(
    module: str,
) -> None:
    above: set[str] = set()
    for row in rows():
        above |= set(row)
        if module in row:
            break
    ours = {name[8:] for name in imports(module) if name.startswith("sidecar.")}
    assert ours & set(MODULES) <= above


@pytest.mark.parametrize("library", EDGES)
def test_a_library_is_imported_at_its_edge_alone(library: str) -> None:
    found = {
        module
        for module in MODULES
        if any(name.partition(".")[0] == library for name in imports(module))
    }
    assert found == EDGES[library]


def test_the_sidecar_never_imports_hermes_or_the_plugins() -> None:
    for module in MODULES:
        roots = {name.partition(".")[0] for name in imports(module)}
        assert roots.isdisjoint({"lib", "plugins", "plugin_stub"})
