# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import socket
import uuid
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest
from parts.jetstream import Operator
from parts.process import memory_kib, wait_until
from parts.sidecar import event, post, sidecar_on

from sidecar import errors
from sidecar.answer import Position, StoredMessage
from sidecar.errors import Cause, Problem
from sidecar.read import MAX_BYTES, NEXT, Query, contiguous, locate, parse_query

if TYPE_CHECKING:
    from pathlib import Path

    from parts.nats import NatsProcess


@pytest.mark.parametrize(
    ("parameters", "query"),
    [
        ([], Query(None)),
        ([("offset", "first")], Query(None)),
        ([("offset", "next")], Query(NEXT)),
        ([("offset", "7")], Query(7)),
        ([("offset", "0")], Query(0)),
        ([("offset", "999999999999999999")], Query(999_999_999_999_999_999)),
        ([("limit", "1")], Query(None, limit=1)),
        ([("limit", "5000")], Query(None, limit=5000)),
        ([("max_bytes", "1")], Query(None, max_bytes=1)),
        ([("max_bytes", "1000000000")], Query(None, max_bytes=MAX_BYTES)),
        ([("wait", "0")], Query(None, wait_seconds=0)),
        ([("wait", "0.250")], Query(None, wait_seconds=0.25)),
        ([("wait", "60")], Query(None, wait_seconds=60)),
        ([("category", "base")], Query(None, category="base")),
        (
            [("offset", "7"), ("limit", "2"), ("wait", "1"), ("category", "a-B_1")],
            Query(7, limit=2, wait_seconds=1, category="a-B_1"),
        ),
    ],
)
def test_a_query_in_range_is_read(
    parameters: list[tuple[str, str]], query: Query
) -> None:
    assert parse_query(parameters) == query


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("offset", ""),
        ("offset", "-1"),
        ("offset", "last"),
        ("offset", "1.0"),
        ("offset", "1e3"),
        ("offset", " 1"),
        ("offset", "\u0661"),
        ("offset", "9" * 19),
        ("offset", "FIRST"),
        ("limit", "0"),
        ("limit", "5001"),
        ("limit", "x"),
        ("limit", ""),
        ("limit", "9" * 100),
        ("max_bytes", "0"),
        ("max_bytes", "1000000001"),
        ("wait", "61"),
        ("wait", "60.000001"),
        ("wait", "-1"),
        ("wait", "nan"),
        ("wait", "inf"),
        ("wait", "1e1"),
        ("wait", ""),
        ("category", ""),
        ("category", "a.b"),
        ("category", "*"),
        ("category", "a" * 65),
        ("category", "é"),
    ],
)
def test_a_parameter_out_of_range_is_named_without_its_value(
    name: str, value: str
) -> None:
    with pytest.raises(Problem) as caught:
        parse_query([(name, value)])
    assert caught.value.cause is errors.MALFORMED_QUERY
    assert caught.value.members == {"parameter": name}


def test_an_unknown_parameter_is_refused_without_echoing_its_name() -> None:
    with pytest.raises(Problem) as caught:
        parse_query([("c0rrect", "1")])
    assert caught.value.cause is errors.MALFORMED_QUERY
    assert "c0rrect" not in repr(caught.value.document())


@pytest.mark.parametrize(
    ("offset", "first", "last", "start"),
    [
        (None, 8, 20, 8),
        (None, 8, 7, 8),
        (NEXT, 8, 20, 21),
        (NEXT, 8, 7, 8),
        (8, 8, 20, 8),
        (20, 8, 20, 20),
        (21, 8, 20, 21),
        (8, 8, 7, 8),
    ],
)
def test_an_offset_from_first_to_one_past_the_last_can_be_read(
    offset: int | None, first: int, last: int, start: int
) -> None:
    assert locate(offset, Position(first, last), None) == start


@pytest.mark.parametrize(
    ("offset", "first", "last", "settled_last", "cause"),
    [
        (7, 8, 20, None, errors.OFFSET_GONE),
        (0, 8, 20, 20, errors.OFFSET_GONE),
        (0, 1, 0, 0, errors.OFFSET_GONE),
        (7, 8, 7, 7, errors.OFFSET_GONE),
        (22, 8, 20, None, errors.JETSTREAM_UNAVAILABLE),
        (22, 8, 20, 21, errors.JETSTREAM_UNAVAILABLE),
        (22, 8, 20, 30, errors.JETSTREAM_UNAVAILABLE),
        (22, 8, 20, 20, errors.OFFSET_AHEAD),
        (32, 8, 20, 30, errors.OFFSET_AHEAD),
        (9, 8, 7, 7, errors.OFFSET_AHEAD),
    ],
)
def test_an_offset_outside_is_an_error_and_never_a_silent_skip(
    offset: int, first: int, last: int, settled_last: int | None, cause: Cause
) -> None:
    problem = locate(offset, Position(first, last), settled_last)
    assert isinstance(problem, Problem)
    assert problem.cause is cause
    if cause is not errors.JETSTREAM_UNAVAILABLE:
        assert problem.members == {"first_offset": first, "last_offset": last}


def test_what_its_own_precondition_did_not_allow_there_is_never_given() -> None:
    """Such events stand in a replica that has refused what its leader stored."""
    messages = [
        StoredMessage(sequence, "hermes.base", None, "t", b"", after=after)
        for sequence, after in ((5, 4), (6, None), (7, 6), (8, 5), (9, 8))
    ]
    found = contiguous(5, messages, filtered=False)
    assert [message.sequence for message in found] == [5, 6, 7]
    assert [message.is_displaced for message in messages] == [False] * 3 + [True, False]


def batch(*pairs: tuple[int, int]) -> list[StoredMessage]:
    return [
        StoredMessage(sequence, "hermes.base", None, "t", b"", previous)
        for sequence, previous in pairs
    ]


@pytest.mark.parametrize(
    ("start", "sequences", "kept"),
    [
        (5, [], []),
        (5, [5, 6, 7], [5, 6, 7]),
        (5, [6, 7], []),  # the server starts at the next one silently
        (5, [5, 7], [5]),
        (5, [5, 6, 8, 9], [5, 6]),
        (5, [4, 5], []),
        (5, [5, 5], [5]),
    ],
)
def test_without_a_filter_nothing_is_kept_after_a_hole(
    start: int, sequences: list[int], kept: list[int]
) -> None:
    messages = batch(*[(sequence, 0) for sequence in sequences])
    found = contiguous(start, messages, filtered=False)
    assert [message.sequence for message in found] == kept


@pytest.mark.parametrize(
    ("start", "pairs", "kept"),
    [
        (5, [], []),
        (5, [(9, 0)], [9]),
        (5, [(9, 0), (12, 9), (40, 12)], [9, 12, 40]),
        (5, [(12, 9), (40, 12)], []),  # the first one was lost on the way
        (5, [(9, 0), (40, 12)], [9]),
        (5, [(4, 0)], []),
    ],
)
def test_with_a_filter_each_message_must_name_the_one_before(
    start: int, pairs: list[tuple[int, int]], kept: list[int]
) -> None:
    found = contiguous(start, batch(*pairs), filtered=True)
    assert [message.sequence for message in found] == kept


# -- A stream that a server damaged ----------------------------------------------------


def test_a_displaced_event_is_an_error_that_names_its_offset(
    nats: NatsProcess, tmp_path: Path
) -> None:
    """Of a header said twice the server heeds the first, and we read the last."""
    name = f"d{uuid.uuid4().hex[:12]}"
    with (
        sidecar_on(nats, tmp_path / "displaced", name) as sidecar,
        sidecar.client() as http,
        Operator(nats.port) as operator,
    ):
        good = post(http).json()["offset"]
        twice = {
            "Nats-Expected-Last-Sequence": f"{good}\r\nNats-Expected-Last-Sequence: 7"
        }
        wrong = operator.publish(f"{name}.base", event(), twice)
        page = http.get("/v1/events").json()
        assert [row["offset"] for row in page["events"]] == [good]
        for query in (f"offset={wrong}", f"offset={wrong}&category=base"):
            answer = http.get(f"/v1/events?{query}")
            assert (answer.status_code, answer.json()["code"]) == (503, "displaced")
            assert answer.json()["offset"] == wrong


# -- Readers that stall ----------------------------------------------------------------


def test_readers_that_stall_cost_bounded_memory_and_no_publish(
    nats: NatsProcess, tmp_path: Path
) -> None:
    request = b"GET /v1/events?offset=first&limit=5000 HTTP/1.1\r\nHost: x\r\n\r\n"
    with (
        sidecar_on(nats, tmp_path / "stalled") as sidecar,
        sidecar.client() as http,
        ExitStack() as stack,
    ):
        for _ in range(6):
            post(http, event(objattrs={"photo": "x" * 1_000_000}))
        answers = []
        for _ in range(40):
            reader = stack.enter_context(socket.socket(socket.AF_UNIX))
            reader.settimeout(30)
            reader.connect(str(sidecar.socket))
            reader.sendall(request)
            answers.append(reader.recv(12, socket.MSG_WAITALL))
        assert {b"HTTP/1.1 200", b"HTTP/1.1 429"} == set(answers)
        assert post(http).status_code == 201
        assert memory_kib(sidecar.running.pid) < 400_000
        stack.close()  # what they held is free again
        wait_until(lambda: http.get("/v1/events").status_code == 200, what="room")
