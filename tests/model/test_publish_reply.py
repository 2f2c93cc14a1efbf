# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json

import pytest

from sidecar import errors
from sidecar.model.publish_reply import (
    Acknowledged,
    Answer,
    InProcess,
    Refused,
    StoredMessage,
    Unavailable,
    Undecided,
    WrongLast,
    parse_answer,
    parse_commit,
)

FOREIGN = Undecided(errors.FOREIGN_ANSWER)
FULL = errors.STORAGE_FULL
REPLICAS = pytest.mark.parametrize("is_replicated", [False, True], ids=["R1", "R3"])


def error(code: object, description: str = "", stream: str = "hermes") -> bytes:
    return json.dumps(
        {
            "error": {"code": 400, "err_code": code, "description": description},
            "stream": stream,
            "seq": 0,
        }
    ).encode()


def parse(
    payload: bytes, status: str | None = None, is_replicated: bool = False
) -> Answer:
    return parse_answer(payload, status, "hermes", is_replicated=is_replicated)


@REPLICAS
@pytest.mark.parametrize(
    ("payload", "answer"),
    [
        (b'{"stream":"hermes","seq":7}', Acknowledged(7, duplicate=False)),
        (
            b'{"stream":"hermes","seq":7,"duplicate":true}',
            Acknowledged(7, duplicate=True),
        ),
        (b'{"stream":"hermes","domain":"d","seq":7}', Acknowledged(7, duplicate=False)),
        (error(10158, "duplicate message id is in process"), InProcess()),
    ],
)
def test_an_answer_of_our_stream_is_read_as_what_it_says(
    payload: bytes, answer: Answer, is_replicated: bool
) -> None:
    assert parse(payload, None, is_replicated) == answer


@REPLICAS
def test_a_wrong_last_sequence_says_whether_an_old_leader_may_say_so(
    is_replicated: bool,
) -> None:
    answer = parse(error(10071, "wrong last sequence: 7"), None, is_replicated)
    assert answer == WrongLast(of_several=is_replicated)


@pytest.mark.parametrize(
    ("code", "description", "cause"),
    [
        (10002, "resource limits exceeded for account", errors.STORAGE_FULL),
        (10023, "insufficient resources", errors.STORAGE_FULL),
        (10054, "message size exceeds maximum allowed", errors.EVENT_TOO_LARGE),
        (10077, "maximum messages exceeded", errors.STREAM_FULL),
        (10077, "maximum bytes exceeded", errors.STREAM_FULL),
    ],
)
def test_a_refusal_is_definite_on_one_replica_only(
    code: int, description: str, cause: errors.Cause
) -> None:
    payload = error(code, description)
    assert parse(payload) == Refused(cause, code)
    assert parse(payload, is_replicated=True) == Undecided(cause, code)


@REPLICAS
@pytest.mark.parametrize(
    ("code", "description"),
    [
        (10008, "JetStream system temporarily unavailable"),
        (10049, "deletes denied"),
        (10060, "expected stream does not match"),
        (10063, "expected stream sequence does not match"),
        (10077, ""),
        (10077, "write /data: no space left on device"),
        (10077, "raft: not leader"),
        (10109, "invalid operation on sealed stream"),
        (10167, "too many requests"),
        (99999, "what a server of the future says"),
    ],
)
def test_every_other_refusal_is_a_doubt_that_keeps_its_code(
    code: int, description: str, is_replicated: bool
) -> None:
    answer = parse(error(code, description), None, is_replicated)
    assert answer == Undecided(errors.PUBLISH_REFUSED, code)


@REPLICAS
@pytest.mark.parametrize("code", [10002, 10023, 10054, 10060, 10071, 10077, 10158])
@pytest.mark.parametrize("stream", ["other", "HERMES", "hermes2", ""])
def test_what_another_stream_refuses_decides_nothing(
    code: int, stream: str, is_replicated: bool
) -> None:
    """As that of a leaf node does that takes the same subjects, before ours answers."""
    payload = error(code, "maximum bytes exceeded", stream)
    assert parse(payload, None, is_replicated) == FOREIGN


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
        b'{"stream":"hermes","seq":true}',
        b'{"error":{}}',
        b'{"error":{"err_code":10054}}',
        b'{"error":"no"}',
    ],
)
def test_what_is_no_answer_of_our_stream_decides_nothing(payload: bytes) -> None:
    assert parse(payload) == FOREIGN


@pytest.mark.parametrize(
    "payload",
    [
        error(None),
        error("10071"),
        b'{"stream":"hermes","error":{}}',
        b'{"stream":"hermes","error":"no"}',
        b'{"stream":"hermes","error":null}',
    ],
)
def test_a_refusal_without_a_code_is_a_doubt(payload: bytes) -> None:
    """So a leader answers who could not propose: code 503 and what Raft said."""
    assert parse(payload) == Undecided(errors.PUBLISH_REFUSED)


def test_no_responders_means_that_the_copy_reached_nobody() -> None:
    assert parse(b"", "503") == Unavailable()


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


REFUSED_BATCH = Undecided(errors.PUBLISH_REFUSED)
COMMIT = {"stream": "hermes", "seq": 9, "batch": "b", "count": 3}


@pytest.mark.parametrize(
    ("payload", "answer"),
    [
        (json.dumps(COMMIT).encode(), Acknowledged(9, duplicate=False)),
        (
            b'{"stream":"hermes","domain":"d","seq":9,"batch":"b","count":3}',
            Acknowledged(9, duplicate=False),
        ),
        (json.dumps(COMMIT | {"seq": 8}).encode(), REFUSED_BATCH),
        (json.dumps(COMMIT | {"seq": "9"}).encode(), REFUSED_BATCH),
        (json.dumps(COMMIT | {"count": 2}).encode(), REFUSED_BATCH),
        (json.dumps(COMMIT | {"batch": "c"}).encode(), REFUSED_BATCH),
        (json.dumps(COMMIT | {"duplicate": True}).encode(), REFUSED_BATCH),
        (
            json.dumps(COMMIT | {"error": {"err_code": 10071}}).encode(),
            Undecided(errors.PUBLISH_REFUSED, 10071),
        ),
        (b'{"stream":"hermes","seq":9}', REFUSED_BATCH),
        (
            error(10071, "wrong last sequence: 7"),
            Undecided(errors.PUBLISH_REFUSED, 10071),
        ),
        (
            error(10201, "atomic publish batch contains duplicate message id"),
            Undecided(errors.PUBLISH_REFUSED, 10201),
        ),
        (
            error(10176, "atomic publish batch is incomplete"),
            Undecided(errors.PUBLISH_REFUSED, 10176),
        ),
        (
            error(10077, "no space left on device"),
            Undecided(errors.PUBLISH_REFUSED, 10077),
        ),
        (json.dumps({"stream": "hermes", "error": [1]}).encode(), REFUSED_BATCH),
        (json.dumps(COMMIT | {"stream": "other"}).encode(), FOREIGN),
        *((payload, FOREIGN) for payload in (b"", b"nope", b"7", b"[" * 100_000)),
    ],
)
def test_of_a_batch_only_its_own_acknowledgement_is_definite(
    payload: bytes, answer: Answer
) -> None:
    assert parse_commit(payload, "hermes", "b", last=9, count=3) == answer
