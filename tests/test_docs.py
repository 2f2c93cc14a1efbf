# SPDX-License-Identifier: Apache-2.0
"""The documentation says what the code does."""

from __future__ import annotations

import ast
import importlib.util
import re
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.facts import FACTS
from support.markdown import places

from sidecar import errors
from sidecar.model import health
from sidecar.model.clients import Client
from sidecar.settings import PREFIX, Settings
from sidecar.telemetry.metrics import Disk, Metrics

ROOT = Path(__file__).resolve().parent.parent


def _generator() -> Any:
    spec = importlib.util.spec_from_file_location("gen", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


PAGES = [
    *(f"docs/{name}" for name in ("openapi.json", "settings.md", "http-api.md")),
    "deploy/systemd/sidecar.env",
]


def test_each_generated_page_is_compared() -> None:
    assert list(_generator().PAGES) == PAGES


@pytest.mark.parametrize("name", PAGES)
def test_generated_page_is_what_the_code_says(name: str) -> None:
    written = (ROOT / name).read_text("utf-8")
    assert written == _generator().PAGES[name](), "run `make docs`"


def test_the_settings_file_sets_nothing_and_names_the_defaults() -> None:
    lines = (ROOT / "deploy/systemd/sidecar.env").read_text("utf-8").splitlines()
    assert [line for line in lines if line and not line.startswith("#")] == []
    given = [line[1:].split("=", 1) for line in lines if line.startswith(f"#{PREFIX}")]
    assert len(given) == len(Settings.model_fields)
    values = {name.removeprefix(PREFIX).lower(): value for name, value in given}
    assert Settings.model_validate(values) == Settings()


def test_readme_is_at_most_150_lines() -> None:
    assert len(README.splitlines()) <= 150


def test_architecture_is_at_most_150_lines() -> None:
    assert len((ROOT / "ARCHITECTURE.md").read_text("utf-8").splitlines()) <= 150


README = (ROOT / "README.md").read_text("utf-8")
INDEX = (ROOT / "docs" / "index.md").read_text("utf-8")
WRITTEN = sorted((ROOT / "docs").glob("*.md"))
WITH_LINKS = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "deploy/**/*.md", "plugin_stub/**/*.md")
    for path in ROOT.glob(pattern)
)


def test_the_index_leads_to_each_page_and_readme_to_the_index() -> None:
    pages = {*WRITTEN, *(ROOT / "docs" / "adr").glob("*.md")}
    names = {page.relative_to(ROOT / "docs").as_posix() for page in pages}
    assert names - {"index.md"} <= set(re.findall(r"\]\(([^)]+)\)", INDEX))
    assert "](docs/index.md)" in README


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: page.name)
def test_a_page_says_first_for_whom_it_is(page: Path) -> None:
    lines = page.read_text("utf-8").splitlines()
    begin = next(number for number, line in enumerate(lines) if line[:2] == "# ")
    assert re.match(r"(For|Pour) \w", lines[begin + 2]), lines[begin + 2]


@pytest.mark.parametrize(
    "page", WITH_LINKS, ids=lambda page: str(page.relative_to(ROOT))
)
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!\w+:)([^)#\s]*)#?([^)\s]*)\)", page.read_text("utf-8"))
    for path, place in links:
        target = page.parent / path if path else page
        assert target.exists(), path
        assert not place or place in places(target), f"{path}#{place}"


def test_the_licence_is_that_of_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    text = (ROOT / "LICENSE").read_text("utf-8")
    assert f"SPDX-License-Identifier: {project['license']}\n" in text
    assert set(re.findall(r"LICENSES/[\w.-]+\.txt", text)) == {
        path.relative_to(ROOT).as_posix() for path in (ROOT / "LICENSES").iterdir()
    }


def test_each_install_of_a_page_goes_by_the_locks() -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    text = "".join(page.read_text("utf-8") for page in pages)
    installs = re.findall(r"^ +(?:sudo )?\S+/pip install (.*)", text, re.MULTILINE)
    assert len(installs) > 5
    for install in installs:
        by_locks = "--require-hashes" in install or "--no-deps" in install
        assert by_locks, install


# -- docs/operations.md ----------------------------------------------------------------

SOURCES = sorted((ROOT / "sidecar").rglob("*.py"))
LEVELS = {"debug", "info", "warning", "error"}


def operations(heading: str) -> str:
    """Give one section of docs/operations.md."""
    text = (ROOT / "docs" / "operations.md").read_text("utf-8")
    (section,) = re.findall(
        rf"^## {heading}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL
    )
    return str(section)


def names(heading: str) -> list[str]:
    """Give what the rows of a section's table begin with."""
    rows = re.findall(r"^\| (.*?) \|", operations(heading), re.MULTILINE)
    return [name for row in rows for name in re.findall(r"`([^`]+)`", row)]


def calls(path: Path) -> list[ast.Call]:
    tree = ast.parse(path.read_text("utf-8"))
    return [node for node in ast.walk(tree) if isinstance(node, ast.Call)]


def is_log(call: ast.Call) -> bool:
    """Tell whether it is log.info(...) or getattr(log, level)(...)."""
    match call.func:
        case ast.Attribute(value=ast.Name(id="log"), attr=attr):
            return attr in LEVELS
        case ast.Call(func=ast.Name(id="getattr"), args=[ast.Name(id="log"), *_]):
            return True
    return False


def logged() -> set[str]:
    """Give every event name that the code logs; those of causes are their codes."""
    first = [call.args[0] for path in SOURCES for call in calls(path) if is_log(call)]
    return {
        node.value
        for argument in first
        for node in ast.walk(argument)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }


def test_every_log_event_has_a_row_and_every_row_an_event() -> None:
    assert "initsync_missing" in logged()
    assert sorted(names("Log lines")) == sorted(logged())


def test_every_code_has_a_row_and_every_row_a_code() -> None:
    causes = [each for each in vars(errors).values() if isinstance(each, errors.Cause)]
    assert sorted(names("Codes")) == sorted(cause.code for cause in causes)


def test_every_check_and_every_reason_of_health_has_a_row() -> None:
    section = operations("Reasons of /health")
    checks = [
        call
        for call in calls(Path(health.__file__))
        if isinstance(call.func, ast.Name) and call.func.id in ("Check", "_failed")
    ]
    constants = [
        [
            node.value
            for argument in call.args[:2]
            for node in ast.walk(argument)
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
        ]
        for call in checks
    ]
    named = {words[0] for words in constants if words}
    assert set(names("Reasons of /health")) == named
    for words in constants:
        for sentence in words[1:]:
            assert sentence.strip() in section, sentence
    assert "Hermes is blocked:" in section


# -- docs/field.md ---------------------------------------------------------------------


def test_each_test_that_the_field_names_exists() -> None:
    text = (ROOT / "docs" / "field.md").read_text("utf-8")
    files = set(re.findall(r"`((?:system/)?\w+\.(?:py|yml))`", text))
    assert len(files) > 5
    assert [name for name in files if not [*(ROOT / "tests").glob(f"**/{name}")]] == []
    sources = [path.read_text("utf-8") for path in (ROOT / "tests").rglob("test_*.py")]
    tests = re.findall(r"def (test_\w+)", "\n".join(sources))
    names = re.findall(r"`((?:test_|\.\.\._)\w+(?:\.\.\.)?)`", text)
    assert len(names) > 5
    for name in names:
        form = re.escape(name).replace(re.escape("..."), ".*")
        assert any(re.fullmatch(form, test) for test in tests), name


# -- tests/stable_names.txt ------------------------------------------------------------


CLIENT = Client("hermes-client-ldap", "reading", 1, 1, 1.0)
READING = replace(FACTS, reads=health.Reading(), clients=[CLIENT])


def metric_names() -> set[str]:
    """Give each metric of ours with its labels."""
    ends = {"SIDECAR_TLS_CERT_FILE": 1.0}
    metrics = Metrics(lambda: READING, lambda: ends, lambda: Disk(2, 1))
    metrics.refused("busy")
    metrics.followed(CLIENT.name, [0.1])
    lines = metrics.text().decode().splitlines()
    samples = [line for line in lines if line.startswith("hermes_sidecar_")]
    names = {re.sub(r'="[^"]*"', "", line.rpartition(" ")[0]) for line in samples}
    return {name for name in names if "_created" not in name}


def stable_names() -> list[str]:
    """Give every name of the code that users, alerts and scripts rely on."""
    causes = [each for each in vars(errors).values() if isinstance(each, errors.Cause)]
    checks = health.assess(READING)
    return [
        *sorted(f"code {cause.code} {int(cause.status)}" for cause in causes),
        *sorted(f"outcome {outcome}" for outcome in errors.Outcome),
        *sorted(f"check {check.name}" for check in checks),
        *sorted(f"metric {name}" for name in metric_names()),
        *sorted(f"log {name}" for name in logged()),
        *sorted(f"setting {PREFIX}{name.upper()}" for name in Settings.model_fields),
    ]


def test_names_that_users_rely_on_stay() -> None:
    """Add a new name to the list; a removed or renamed one breaks what users built."""
    lines = (ROOT / "tests" / "stable_names.txt").read_text("utf-8").splitlines()
    assert stable_names() == [line for line in lines if not line.startswith("#")]
