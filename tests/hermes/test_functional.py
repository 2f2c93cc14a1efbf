# SPDX-License-Identifier: Apache-2.0
"""Hermes' own functional tests, on a copy of Hermes whose bus is our sidecar."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from support.sidecar import COMMAND, SidecarProcess

LONGEST_SECONDS = 1800
FEWEST_TESTS = 111
"""As many as Hermes v1.0.5 has."""

_TESTS = Path("tests/functional")
_CONFIGURATIONS = _TESTS / "fixtures/config_files"


@pytest.fixture(scope="session")
def patched_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a copy of Hermes with our plugins, as an operator installs them."""
    home = tmp_path_factory.mktemp("functional") / "hermes"
    shutil.copytree(
        os.environ["HERMES_HOME"],
        home,
        ignore=shutil.ignore_patterns(".*", "__pycache__"),
    )
    subprocess.run([*COMMAND, "install-plugins", home / "plugins"], check=True)
    return home


def use_bus(home: Path, url: str) -> None:
    """Name our plugin, and nothing else, as bus in both fixture configurations."""
    for program in ("server", "client"):
        path = home / _CONFIGURATIONS / f"{program}.yml"
        document = yaml.safe_load(path.read_text("utf-8"))
        bus = {"nats_sidecar": {"settings": {"url": url}}}
        document["hermes"]["plugins"]["messagebus"] = bus
        path.write_text(yaml.safe_dump(document, sort_keys=False), "utf-8")


def run_functional_tests(home: Path, python: Path, log: Path) -> str:
    """Run Hermes' functional tests to their end and give what they printed."""
    modules = [
        f"tests.functional.{path.stem}"
        for path in sorted((home / _TESTS).glob("test_*.py"))
    ]
    with log.open("wb") as output:
        subprocess.run(
            [python, "-B", "-m", "unittest", "-v", *modules],
            check=False,
            cwd=home,
            env={"PATH": "/usr/bin:/bin", "TMPDIR": str(log.parent)},
            stdout=output,
            stderr=output,
            timeout=LONGEST_SECONDS,
        )
    return log.read_text("utf-8", "replace")


def test_all_functional_tests_of_hermes_pass_over_the_sidecar(
    patched_home: Path, hermes_python: Path, sidecar: SidecarProcess, tmp_path: Path
) -> None:
    sources = [path.read_text("utf-8") for path in (patched_home / _TESTS).glob("*.py")]
    expected = len(re.findall(r"^    def test_", "".join(sources), re.MULTILINE))
    assert expected >= FEWEST_TESTS
    use_bus(patched_home, sidecar.url)

    printed = run_functional_tests(patched_home, hermes_python, tmp_path / "tests.log")

    failed = re.findall(r"^(?:FAIL|ERROR): .*", printed, re.MULTILINE)
    passed = len(re.findall(r"\.\.\. ok$", printed, re.MULTILINE))
    assert (failed, passed) == ([], expected), printed[-5000:]
    assert re.search(rf"^Ran {expected} tests", printed, re.MULTILINE)
    with sidecar.client() as http:
        categories = http.get("/v1/stream").raise_for_status().json()["categories"]
    assert categories["initsync"] > 1000, "they did not use our stream"
    assert categories["base"] > 0
