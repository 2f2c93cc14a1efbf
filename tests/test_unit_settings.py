# SPDX-License-Identifier: Apache-2.0
"""Commands by hand go by the settings of the unit, where none are given."""

from __future__ import annotations

import os
import re
from pathlib import Path
from unittest.mock import patch

import pytest

from sidecar import unit_settings
from sidecar.settings import load

ROOT = Path(__file__).resolve().parent.parent
UNIT_FILE = ROOT / "deploy/systemd/hermes-nats-sidecar.service"


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "sidecar.env"
    monkeypatch.setattr(unit_settings, "FILE", path)
    monkeypatch.setattr("os.geteuid", lambda: 0)
    path.write_text('# comment\n#SIDECAR_ROLE=both\nSIDECAR_ROLE="producer"\n')
    return path


def test_the_unit_says_what_is_said_for_it() -> None:
    text = UNIT_FILE.read_text("utf-8")
    assert (
        f"Environment=SIDECAR_UNIX_SOCKET={unit_settings.UNIT['SIDECAR_UNIX_SOCKET']}"
        in text
    )
    assert f"EnvironmentFile=-{unit_settings.FILE}" in text
    assert "\nStateDirectory=hermes-nats-sidecar\n" in text  # where the default is
    assert re.findall("^Environment=.*", text, re.MULTILINE)[1:] == []


@pytest.mark.usefixtures("file")
def test_the_units_settings_count_where_none_are_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in [name for name in os.environ if name.startswith("SIDECAR_")]:
        monkeypatch.delenv(name)
    with patch.dict(os.environ):
        unit_settings.use_unit(os.environ)
        settings = load(os.environ)
    assert settings.role == "producer"
    assert str(settings.unix_socket) == "/run/hermes-nats-sidecar/api.sock"
    assert str(settings.embedded_dir) == "/var/lib/hermes-nats-sidecar/nats"


@pytest.mark.usefixtures("file")
def test_one_setting_of_ones_own_is_enough_to_mean_another_sidecar() -> None:
    assert used(SIDECAR_NATS_URL="nats://127.0.0.1:1").keys() == {"SIDECAR_NATS_URL"}


def test_the_file_may_be_missing_or_unreadable(file: Path) -> None:
    assert used()
    file.write_bytes(b"SIDECAR_ROLE=\xff")
    assert used() == {}
    file.unlink()
    assert used() == {}


@pytest.mark.usefixtures("file")
def test_who_may_not_use_the_socket_goes_by_no_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert used() == {}


def used(**environ: str) -> dict[str, str]:
    """Give what becomes of an environment."""
    unit_settings.use_unit(environ)
    return environ


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("SIDECAR_ROLE=both", {"SIDECAR_ROLE": "both"}),
        (" SIDECAR_ROLE = both ", {"SIDECAR_ROLE": "both"}),
        ("SIDECAR_NATS_URL='a=b c'", {"SIDECAR_NATS_URL": "a=b c"}),
        ('SIDECAR_NATS_URL="', {"SIDECAR_NATS_URL": '"'}),
        ("SIDECAR_NATS_URL=", {"SIDECAR_NATS_URL": ""}),
        ("#SIDECAR_ROLE=both", {}),
        ("; SIDECAR_ROLE=both", {}),
        ("SIDECAR_ROLE", {}),
        ("PATH=/bin", {}),
    ],
)
def test_lines_are_read_as_systemd_reads_them(line: str, found: dict[str, str]) -> None:
    assert unit_settings.parse(line) == found
