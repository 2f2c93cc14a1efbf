# SPDX-License-Identifier: Apache-2.0
"""The short form of tests/chaos: mixed runs, and bugs put back that they find."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from chaos.nemesis import FAULTS, fitting
from chaos.options import Options
from chaos.run import run, summary

if TYPE_CHECKING:
    from pathlib import Path

QUICK = tuple(
    name
    for name in fitting("single")
    if name not in ("disk_full", "stream_full")
    and "swallow" not in name
    and "stall" not in name
)


def test_every_returned_event_stands_once_in_order_whatever_dies(
    hermes_home: Path,
) -> None:
    result = run(Options(seed=7, seconds=10, burst=80, faults=QUICK), hermes_home)
    assert not result.violations, summary(result)
    assert result.acknowledged > 100
    assert result.scans > 1
    assert len(result.faults) > 3


@pytest.mark.parametrize(
    ("publisher", "fault"),
    [
        ("unfenced", "http_late_before_request"),
        ("unkeyed", "http_cut_in_answer"),
        ("self-fencing", "http_late_before_request"),
    ],
)
def test_a_broken_publisher_is_found_out_with_the_command_that_repeats_it(
    hermes_home: Path, tmp_path: Path, publisher: str, fault: str
) -> None:
    options = Options(
        seed=7,
        seconds=20,
        events=80,
        burst=80,
        faults=(fault,),
        publisher=publisher,
        readers=0,
        scanners=0,
        report=tmp_path / "chaos.json",
    )
    result = run(options, hermes_home)
    assert any("stand" in each or "twice" in each for each in result.violations)
    text = summary(result)
    assert "VIOLATION, seed 7" in text
    assert options.command in text
    _check_evidence(tmp_path / "chaos-seed-7")


def _check_evidence(directory: Path) -> None:
    names = {file.name for file in directory.iterdir()}
    assert {"attempts.jsonl", "faults.jsonl", "n1-nats.log"} <= names
    rows = (directory / "replica-n1.jsonl").read_text().splitlines()
    assert len(rows) >= 50
    for row in map(json.loads, rows):
        assert row["expected"] == row["offset"] - 1
        assert row["key"]
        assert row["time"]
        assert row["body"].startswith(("base ", "initsync "))


def test_the_same_faults_do_not_hurt_the_real_publisher(hermes_home: Path) -> None:
    faults = ("http_late_before_request", "http_cut_in_answer")
    options = Options(seed=7, seconds=20, events=80, burst=80, faults=faults)
    result = run(options, hermes_home)
    assert not result.violations, summary(result)


def test_each_fault_runs_in_some_topology() -> None:
    assert all(fault.topologies for fault in FAULTS.values())
