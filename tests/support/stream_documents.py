# SPDX-License-Identifier: Apache-2.0
"""Descriptions of streams, as NATS gives them."""

from __future__ import annotations

from typing import Any

from sidecar.model.stream import StreamPlan

PLAN = StreamPlan(name="hermes", subject_prefix="hermes", replicas=1, max_age_days=90)
SECOND = 1_000_000_000


def config(**changes: Any) -> dict[str, Any]:
    return PLAN.config(first_offset=1) | changes


def document(
    cluster: dict[str, Any] | None = None, replicas: int = 1, **state: Any
) -> dict[str, Any]:
    return {
        "config": config(num_replicas=replicas),
        "created": "2026-11-23T09:48:26.881698198Z",
        "state": {"messages": 2, "bytes": 99, "first_seq": 8, "last_seq": 9} | state,
    } | ({} if cluster is None else {"cluster": cluster})
