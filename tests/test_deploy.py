# SPDX-License-Identifier: Apache-2.0
"""Alerts and dashboard speak of metrics that exist and of rows that can be read."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from prometheus_client.parser import text_string_to_metric_families
from support.facts import FACTS

from sidecar.model.clients import Client
from sidecar.model.health import Reading
from sidecar.telemetry.metrics import Disk, Metrics

ROOT = Path(__file__).resolve().parent.parent
SEEN = replace(
    FACTS, reads=Reading(), clients=[Client("hermes-client-ldap", "reading", 1, 1, 1.0)]
)
ENDS = {"NATS_TLS_CA_FILE": 1.0}


def samples() -> dict[str, set[str]]:
    """Give each sample that /metrics can show, with the values of its labels."""
    found: dict[str, set[str]] = {}
    metrics = Metrics(lambda: SEEN, lambda: ENDS, lambda: Disk(2, 1))
    metrics.followed("hermes-client-ldap", [0.1])
    for family in text_string_to_metric_families(metrics.text().decode()):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels.values())
    found.setdefault("hermes_sidecar_requests_refused_total", set())
    return found


def named(expression: str) -> set[str]:
    return set(re.findall(r"\b(?:hermes_sidecar|process)_\w+", expression))


def rules() -> list[dict[str, Any]]:
    path = ROOT / "deploy" / "prometheus" / "alerts.yml"
    (group,) = yaml.safe_load(path.read_text("utf-8"))["groups"]
    return list(group["rules"])


def expressions() -> list[str]:
    path = ROOT / "deploy" / "grafana" / "dashboard.json"
    panels = json.loads(path.read_text("utf-8"))["panels"]
    return [target["expr"] for panel in panels for target in panel["targets"]]


def test_each_metric_of_an_alert_or_a_panel_exists() -> None:
    known = samples()
    every = [rule["expr"] for rule in rules()] + expressions()
    assert len(every) > 20
    for expression in every:
        assert named(expression), expression
        assert named(expression) <= known.keys(), expression


def test_each_label_value_of_an_alert_exists() -> None:
    known = samples()
    for rule in rules():
        for name, values in re.findall(r'(\w+)\{\w+=~?"([^"]+)"\}', rule["expr"]):
            if name in ("up", "ALERTS", "probe_ssl_earliest_cert_expiry"):  # not ours
                continue
            assert set(values.split("|")) <= known[name], rule["alert"]


def test_each_alert_has_its_row_in_the_documentation() -> None:
    page = (ROOT / "docs" / "operations.md").read_text("utf-8")
    for rule in rules():
        runbook = rule["annotations"]["runbook"]
        assert runbook == f"docs/operations.md#{rule['alert']}"
        assert f'<a id="{rule["alert"]}"></a>' in page
        assert rule["annotations"]["summary"]
        assert rule["labels"]["severity"] in ("critical", "warning")
