# SPDX-License-Identifier: Apache-2.0
"""What the tables of the publisher's decisions are written with."""

from __future__ import annotations

import pytest

from sidecar.errors import Cause, Outcome, Problem
from sidecar.model.decisions import (
    Expected,
    InDoubt,
    Inspect,
    Retry,
)

L = 41
DOUBTS = pytest.mark.parametrize("in_doubt", InDoubt)


def expected(in_doubt: InDoubt = InDoubt.NO, anywhere: bool = False) -> Expected:
    return Expected(
        key="mine", body=b"{}", last=L, anywhere=anywhere, in_doubt=in_doubt
    )


def assert_look(
    step: object,
    cause: Cause,
    code: int | None = None,
    pause_seconds: float = 0.5,
    in_doubt: InDoubt = InDoubt.YES,
) -> None:
    again = Retry(in_doubt, pause_seconds, cause, code)
    assert step == Inspect(L + 1, in_doubt=in_doubt, otherwise=again)


def assert_again(step: object, in_doubt: InDoubt, cause: Cause) -> None:
    assert isinstance(step, Retry)
    assert (step.in_doubt, step.cause) == (in_doubt, cause)
    assert 0 <= step.pause_seconds <= 0.5


def assert_problem(
    step: object, cause: Cause, outcome: Outcome, **members: int | str | None
) -> None:
    assert isinstance(step, Problem)
    assert step.cause is cause
    assert step.outcome is outcome
    assert step.members == members
