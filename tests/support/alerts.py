# SPDX-License-Identifier: Apache-2.0
"""Our alert rules on what sidecars said at a scrape, judged by promtool."""

from __future__ import annotations

import json
import re
import subprocess
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from prometheus_client.parser import text_string_to_metric_families

if TYPE_CHECKING:
    from collections.abc import Mapping

RULES = (
    Path(__file__).resolve().parent.parent.parent
    / "deploy"
    / "prometheus"
    / "alerts.yml"
)

MINUTES = 40
"""How long what was scraped is taken to have lasted: longer than any of these alerts
waits."""


@dataclass(frozen=True)
class Scraped:
    """The metrics of each instance at one moment, and the alerts that are due to them.

    Of an alert `due` has the labels of each time that it fires.
    """

    metrics: Mapping[str, str]
    due: Mapping[str, list[dict[str, str]]]


def assert_alerts(directory: Path, *moments: Scraped) -> None:
    """Let each moment last, one after the other, and compare the alerts at its end."""
    names = {name for each in moments for name in each.due}
    rules = {
        rule["alert"]: rule
        for group in yaml.safe_load(RULES.read_text("utf-8"))["groups"]
        for rule in group["rules"]
        if rule.get("alert") in names
    }
    assert names == rules.keys()
    test = {
        "interval": "1m",
        "input_series": _series(moments),
        "alert_rule_test": [
            {
                "eval_time": f"{(number + 1) * MINUTES - 1}m",
                "alertname": name,
                "exp_alerts": [_expected(rules[name], each) for each in fired],
            }
            for number, moment in enumerate(moments)
            for name, fired in moment.due.items()
        ],
    }
    cases = directory / "alerts.json"
    document = {"rule_files": [str(RULES)], "evaluation_interval": "1m"}
    cases.write_text(json.dumps(document | {"tests": [test]}), "utf-8")
    done = subprocess.run(
        ["promtool", "test", "rules", cases],  # noqa: S607 - the one that is there
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def _series(moments: tuple[Scraped, ...]) -> list[dict[str, str]]:
    """Write the metrics of clients as promtool's series, missing where not scraped."""
    values: dict[str, list[str]] = defaultdict(lambda: ["_"] * len(moments))
    for number, moment in enumerate(moments):
        for instance, text in moment.metrics.items():
            for family in text_string_to_metric_families(text):
                for sample in family.samples:
                    if not sample.name.startswith("hermes_sidecar_client"):
                        continue
                    labels = {**sample.labels, "instance": instance, "job": "hermes"}
                    inner = ", ".join(f'{k}="{v}"' for k, v in labels.items())
                    series = f"{sample.name}{{{inner}}}"
                    values[series][number] = f"{sample.value:.6f}"
    assert values
    return [
        {
            "series": name,
            "values": " ".join(
                f"_x{MINUTES}" if one == "_" else f"{one}x{MINUTES - 1}" for one in each
            ),
        }
        for name, each in values.items()
    ]


def _expected(rule: dict[str, Any], labels: dict[str, str]) -> dict[str, Any]:
    annotations = {
        name: re.sub(r"{{ \$labels\.(\w+) }}", lambda found: labels[found[1]], text)
        for name, text in rule["annotations"].items()
    }
    return {"exp_labels": rule["labels"] | labels, "exp_annotations": annotations}
