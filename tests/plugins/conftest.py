# SPDX-License-Identifier: Apache-2.0
"""A clock for the plugins to live by."""

from __future__ import annotations

import pytest
from support.fake_sidecar import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()
