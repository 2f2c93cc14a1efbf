# SPDX-License-Identifier: Apache-2.0
"""What /health says of a stream that was lost, or that nobody tells of."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from support.facts import FACTS

from sidecar import errors
from sidecar.model.clients import Client
from sidecar.model.health import Check, assess


def lost(**changes: Any) -> Check:
    facts = replace(FACTS, cause=errors.STREAM_MISSING, **changes)
    (check,) = (each for each in assess(facts) if each.name == "stream")
    return check


@pytest.mark.parametrize(
    ("changes", "offset"),
    [
        ({}, 3),
        ({"clients": [Client("a", "waiting", 3, 0, 1.0)]}, 3),
        ({"clients": [Client("a", "silent", 45, 0, 1.0)]}, 45),
        ({"clients": [Client("a", "stranded", 45, None, 1.0)]}, 3),
        ({"clients": [Client("a", "reading", None, None, 1.0)]}, 3),
        ({"info": None, "clients": [Client("a", "reading", 7, None, 1.0)]}, 7),
    ],
)
def test_a_stream_that_was_lost_goes_on_after_all_that_any_client_read(
    changes: dict[str, Any], offset: int
) -> None:
    check = lost(**changes)
    assert check.reason is not None
    assert f"next offset {offset}," in check.reason
    assert check.remedy is not None
    assert check.remedy.startswith("Restore it")
    assert f"provision --first-offset {offset}:" in check.remedy


def test_a_stream_that_nobody_knows_is_to_be_created() -> None:
    assert lost(info=None, last_offset=None).remedy == errors.STREAM_MISSING.remedy


@pytest.mark.parametrize("cause", [errors.NATS_DOWN, errors.JETSTREAM_UNAVAILABLE])
def test_of_replicas_that_nobody_tells_of_nothing_is_known(cause: errors.Cause) -> None:
    assert FACTS.info is not None
    info = replace(FACTS.info, replicas=3)
    facts = replace(FACTS, cause=cause, info=info)
    checks = {each.name: each for each in assess(facts)}
    reason = "It is not known how many of 3 replicas are live."
    assert checks["stream"].status == checks["replicas"].status == "fail"
    assert checks["replicas"].reason == reason
