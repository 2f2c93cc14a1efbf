# SPDX-License-Identifier: Apache-2.0
"""Sidecars with a stream of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from support.sidecar import SidecarProcess, sidecar_on

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.nats import NatsProcess


@pytest.fixture
def quiet(nats: NatsProcess, tmp_path: Path) -> Iterator[SidecarProcess]:
    """Serve a stream of its own, with a log that no other test has filled."""
    with sidecar_on(nats, tmp_path / "quiet") as process:
        yield process
