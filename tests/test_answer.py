# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json

import pytest

from sidecar import errors
from sidecar.answer import (
    Acknowledged,
    Answer,
    InProcess,
    NoAnswer,
    Refused,
    StoredMessage,
    Unavailable,
    WrongLast,
    parse_answer,
)


def error(code: object, description: str = "") -> bytes:
    return json.dumps(
        {
            "error": {"code": 400, "err_code": code, "description": description},
            "stream": "hermes",
            "seq": 0,
        }
    ).encode()


@pytest.mark.parametrize(
    ("payload", "answer"),
    [
        (b'{"stream":"hermes","seq":7}', Acknowledged(7, duplicate=False)),
        (
            b'{"stream":"hermes","seq":7,"duplicate":true}',
            Acknowledged(7, duplicate=True),
        ),
        (b'{"stream":"hermes","domain":"d","seq":7}', Acknowledged(7, duplicate=False)),
        (error(10071, "wrong last sequence: 7"), WrongLast()),
        (error(10158, "duplicate message id is in process"), InProcess()),
        (error(10008, "system temporarily unavailable"), Unavailable()),
        (
            error(10077, "maximum messages exceeded"),
            Refused(errors.STREAM_FULL, 10077),
        ),
        (error(10077, "maximum bytes exceeded"), Refused(errors.STREAM_FULL, 10077)),
        (error(10023, "insufficient resources"), Refused(errors.STORAGE_FULL, 10023)),
        (error(10054, "message too large"), Refused(errors.EVENT_TOO_LARGE, 10054)),
        (error(10060, "expected stream"), Refused(errors.STREAM_UNFIT, 10060)),
        (error(10049, "deletes denied"), Refused(errors.PUBLISH_REFUSED, 10049)),
    ],
)
def test_a_definite_answer_is_read_as_what_it_says(
    payload: bytes, answer: Answer
) -> None:
    assert parse_answer(payload, None, "hermes") == answer


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"+OK",
        b"\xff",
        b"[]",
        b"1",
        b"{}",
        b"[" * 100_000,
        b'{"seq":7}',
        b'{"stream":"other","seq":7}',
        b'{"stream":"hermes"}',
        b'{"stream":"hermes","seq":"7"}',
        b'{"stream":"hermes","seq":null}',
        error(None),
        error("10071"),
        b'{"error":{}}',
        b'{"error":"no"}',
    ],
)
def test_what_is_no_acknowledgement_of_our_stream_is_no_answer(payload: bytes) -> None:
    assert parse_answer(payload, None, "hermes") == NoAnswer()


@pytest.mark.parametrize(
    "description", ["", "write /data: no space left on device", "raft: not leader"]
)
def test_a_store_that_failed_in_the_middle_is_no_definite_answer(
    description: str,
) -> None:
    assert parse_answer(error(10077, description), None, "hermes") == NoAnswer()


def test_no_responders_means_that_the_copy_reached_nobody() -> None:
    assert parse_answer(b"", "503", "hermes") == Unavailable()


def test_a_true_that_is_no_integer_is_no_sequence() -> None:
    answer = parse_answer(b'{"stream":"hermes","seq":true}', None, "hermes")
    assert answer == NoAnswer()


def test_a_message_names_its_category_and_hides_its_body() -> None:
    message = StoredMessage(7, "pre.fix.base", "k", "t", b"c0rrect-horse")
    assert message.category == "base"
    assert "c0rrect" not in repr(message)


@pytest.mark.parametrize(
    ("after", "is_displaced"),
    [(None, False), (5, True), (6, False), (7, True), (8, True)],
)
def test_a_message_is_displaced_unless_it_follows_what_it_was_to_follow(
    after: int | None, is_displaced: bool
) -> None:
    message = StoredMessage(7, "hermes.base", "k", "t", b"", after=after)
    assert message.is_displaced is is_displaced
