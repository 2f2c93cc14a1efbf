# SPDX-License-Identifier: Apache-2.0
"""A story to tell line by line, for the invariants to judge."""

from __future__ import annotations

import pytest
from support.story import (
    ONE,
    OTHER,
    Story,
    added,
    init,
)


@pytest.fixture
def story() -> Story:
    return Story()


@pytest.fixture
def three(story: Story) -> Story:
    """Three events stand: base, initsync, base."""
    story.send()
    story.send(event=init("init-start"))
    story.send(event=added(OTHER, ONE))
    assert story.names() == set()
    return story
