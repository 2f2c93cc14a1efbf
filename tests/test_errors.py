# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import re

import pytest

from sidecar import errors
from sidecar.errors import Cause, Outcome, Problem
from sidecar.http.responses import MEDIA_TYPE, problem_response

CAUSES = [value for value in vars(errors).values() if isinstance(value, Cause)]
IDS = [cause.code for cause in CAUSES]


def test_no_two_causes_share_a_code() -> None:
    assert len(set(IDS)) == len(IDS) > 30


@pytest.mark.parametrize("cause", CAUSES, ids=IDS)
def test_a_cause_reads_as_sentences_and_has_a_plain_code(cause: Cause) -> None:
    assert re.fullmatch("[a-z_]+", cause.code)
    assert cause.title
    assert cause.remedy
    assert cause.status >= 400


@pytest.mark.parametrize("cause", CAUSES, ids=IDS)
def test_what_may_pass_says_when_to_try_again(cause: Cause) -> None:
    if cause.status in (429, 503, 504):
        assert cause.retry_after_seconds is not None
        assert 1 <= cause.retry_after_seconds <= 60
    else:
        assert cause.retry_after_seconds is None


@pytest.mark.parametrize("cause", CAUSES, ids=IDS)
def test_an_answer_is_a_problem_document_of_its_cause(cause: Cause) -> None:
    response = problem_response(
        Problem(cause, Outcome.NOT_STORED, last_offset=7, key="k")
    )
    document = json.loads(bytes(response.body))
    assert response.status_code == document["status"] == cause.status
    assert response.headers["content-type"] == MEDIA_TYPE
    assert document == {
        "type": f"urn:hermes-nats-sidecar:problem:{cause.code}",
        "title": cause.title,
        "status": cause.status,
        "code": cause.code,
        "remedy": cause.remedy,
        "outcome": "not_stored",
        "last_offset": 7,
        "key": "k",
    }
    retry_after = response.headers.get("retry-after")
    assert retry_after == (cause.retry_after_seconds and str(cause.retry_after_seconds))


def test_an_answer_without_outcome_does_not_name_one() -> None:
    assert "outcome" not in Problem(errors.NOT_FOUND).document()


def test_a_problem_is_known_by_its_code() -> None:
    assert str(Problem(errors.BUSY)) == "busy"


@pytest.mark.parametrize("cause", CAUSES, ids=IDS)
def test_only_who_stops_closes_the_connection(cause: Cause) -> None:
    connection = problem_response(Problem(cause)).headers.get("connection")
    assert connection == ("close" if cause is errors.STOPPING else None)


def test_a_401_names_its_scheme() -> None:
    response = problem_response(Problem(errors.UNAUTHORIZED))
    assert response.headers["www-authenticate"] == "Bearer"
