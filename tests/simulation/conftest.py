# SPDX-License-Identifier: Apache-2.0
"""A story to tell line by line, and a bench for the models of Hermes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from support.hermes_bench import Bench
from support.story import (
    ONE,
    OTHER,
    Story,
    added,
    init,
)

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.end()


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
