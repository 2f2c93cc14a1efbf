# SPDX-License-Identifier: Apache-2.0
"""Each answer that the producer plugin can get: what it is taken for, and how long."""

from __future__ import annotations

import importlib
import json
from typing import TYPE_CHECKING, Any

import pytest
from support.fake_sidecar import (
    NO_ANSWER,
    Clock,
    FakeSidecar,
    L,
    Reply,
    problem,
    stands,
    stored,
    taken,
)
from support.hermes import new_event

from sidecar import errors
from sidecar.errors import Cause
from sidecar.http.models import GET_STREAM, POST_EVENT

if TYPE_CHECKING:
    from collections.abc import Callable

HTML = "<html><body>Bad Gateway</body></html>"
STRANGERS = [
    *(Reply(each, text=HTML) for each in (200, 201, 301, 401, 403, 404, 413, 500)),
    *(Reply(each, text=HTML) for each in (502, 503, 504)),
    *(Reply(204, text=""), Reply(200, text=""), Reply(201, text="")),
    *(Reply(200, text=text) for text in ("{}", "[]", "null", '{"code": "x"}')),
    *(Reply(401, text=text) for text in ('{"code": 401}', '{"message": "no"}')),
    *(Reply(409, {"code": "x", "title": title}) for title in (None, 7)),
    *(Reply(200, {name: "7"}) for name in ("offset", "last_offset")),
    *(Reply(200, {name: True}) for name in ("offset", "last_offset")),
    Reply(412, {"code": "precondition_failed", "key": []}),
    Reply(412, {"code": "precondition_failed", "last_offset": "7"}),
]
"""Gateways, and whatever else may answer at a url."""

CAUSES = {each.code: each for each in vars(errors).values() if isinstance(each, Cause)}
PASSING_CODES = [
    *("busy", "credentials_unreadable", "foreign_answer", "jetstream_unavailable"),
    *("nats_down", "nats_permission", "nats_refused", "nats_tls", "publish_refused"),
    *(
        "nats_limit",
        "server_too_old",
        "stopping",
        "storage_full",
        "stream_full",
        "stream_missing",
    ),
    *("stream_unfit", "hole", "displaced", "unreadable"),  # the last are readers'
]
FINAL_CODES = ["api_off", "unauthorized", "wrong_host", "wrong_role"]
FINAL_OF_EVENTS = [
    *("event_too_large", "illegal_category", "key_reused", "malformed_json"),
    *("malformed_key", "malformed_precondition", "malformed_query", "no_key"),
    *("precondition_required", "too_deep", "too_wide", "unsupported_media_type"),
]


def says(*codes: str, outcome: str | None = "not_stored") -> list[Reply | str]:
    return [problem(CAUSES[code].status, code, outcome) for code in codes]


SENT: list[tuple[str, float, list[Reply | str]]] = [
    # What it is taken for, the seconds until it is raised, and the answers.
    ("Event not", 30, says(*PASSING_CODES, "slow_body")),
    ("Event not", 10, says(*FINAL_CODES, *FINAL_OF_EVENTS)),
    ("Event not", 10, says("not_found", "method_not_allowed")),
    ("Event not", 10, says("offset_ahead")),
    ("Event not", 10, [taken("theirs", L + 1)]),
    ("It is not known", 10, says("offset_gone", outcome="unknown")),
    ("It is not known", 60, says("unknown", *PASSING_CODES, outcome="unknown")),
    ("It is not known", 60, says("internal", *FINAL_CODES, outcome=None)),
    ("It is not known", 60, [NO_ANSWER, *STRANGERS]),
    ("It is not known", 60, [stored(L), stored(L + 2), stands(L + 1)]),
]
OPENED: list[tuple[str, float, list[Reply | str]]] = [
    ("No message bus", 30, says(*PASSING_CODES, "internal", "unknown", outcome=None)),
    ("No message bus", 30, [NO_ANSWER, *STRANGERS, stored(7)]),
    ("No message bus", 10, says(*FINAL_CODES, outcome=None)),
    ("No message bus", 10, says("not_found", "method_not_allowed", outcome=None)),
]


def name_of(value: object) -> str:
    if isinstance(value, Reply):
        text = json.dumps(value.document) if value.text is None else value.text
        return f"{value.status} {value.document.get('title') or text}"[:40]
    return str(value)


def rows(table: list[tuple[str, float, list[Reply | str]]]) -> pytest.MarkDecorator:
    flat = [(*row, each) for *row, answers in table for each in answers]
    return pytest.mark.parametrize(("text", "seconds", "answer"), flat, ids=name_of)


def error_of(ask: Callable[[], object]) -> str:
    lib = importlib.import_module("lib.plugins")
    with pytest.raises(Exception, match=r"stored|No message bus") as caught:
        ask()
    is_ours = type(caught.value).__name__ == "NatsSidecarError"
    assert is_ours or isinstance(caught.value, lib.FailedToSendEventError)
    return str(caught.value)


def test_each_answer_of_the_sidecar_stands_in_the_table() -> None:
    for table, described in ((SENT, POST_EVENT), (OPENED, GET_STREAM)):
        statuses = set(described)
        possible = {code for code, each in CAUSES.items() if each.status in statuses}
        possible -= {"precondition_failed"}  # taken()
        possible -= {"not_a_batch", "batch_unfinished"}  # no plugin sends a batch
        said = [each for *_, answers in table for each in answers]
        codes = {each.document.get("code") for each in said if isinstance(each, Reply)}
        assert possible - codes == set()


@rows(SENT)
def test_what_an_event_is_answered_is_raised_in_its_time(
    plugin: Any,
    fake: FakeSidecar,
    clock: Clock,
    *,
    text: str,
    seconds: float,
    answer: Any,
) -> None:
    """Never at once: Hermes sends some events again without a pause (case 58)."""
    schema = new_event("base", "dataschema", objtype=None, objpkey=None)
    with plugin:
        fake.then(answer)
        started_at = clock.now()
        assert error_of(lambda: plugin.send(schema)).startswith(f"{text} ")
        assert clock.now() - started_at == pytest.approx(seconds, abs=0.1)
        assert len(fake.posts) <= seconds * 5
    answers = {request.body for request in fake.posts}
    assert answers == {schema.to_json().encode()}


@rows([each for each in SENT if each[1] != 10])
def test_what_may_pass_is_asked_again_until_the_event_is_stored(
    plugin: Any, fake: FakeSidecar, text: str, seconds: float, answer: Any
) -> None:
    assert text
    assert seconds
    fake.then(stands(L), answer, answer, stored(L + 1))
    with plugin:
        assert plugin._send(new_event()) == L + 1
    assert len({request.headers["idempotency-key"] for request in fake.posts}) == 1


@pytest.mark.parametrize("answer", says(*FINAL_CODES, *FINAL_OF_EVENTS), ids=name_of)
def test_what_is_final_may_have_been_mended_within_seconds(
    plugin: Any, fake: FakeSidecar, answer: Any
) -> None:
    """As a token that is changed on one side first."""
    fake.then(answer, answer, stands(L), answer, answer, stored(L + 1))
    with plugin:
        assert plugin._send(new_event()) == L + 1


@rows(OPENED)
def test_what_open_is_answered_is_raised_in_its_time(
    plugin: Any,
    fake: FakeSidecar,
    clock: Clock,
    *,
    text: str,
    seconds: float,
    answer: Any,
) -> None:
    fake.then(answer)
    started_at = clock.now()
    first = error_of(plugin.open)
    assert first.startswith(f"{text}: ")
    assert clock.now() - started_at == pytest.approx(seconds, abs=2)
    assert clock.now() - started_at >= 10
    assert len(fake.requests) <= seconds * 3
    fake.then(answer, stands(L), stored(L + 1))
    with plugin:
        assert plugin._send(new_event()) == L + 1


def test_what_hermes_cannot_write_as_json_is_not_raised_at_once(
    plugin: Any, clock: Clock
) -> None:
    schema = new_event("base", "dataschema", objtype=None, objpkey=None)
    schema.objattrs["odd"] = object()
    with plugin, pytest.raises(Exception, match=r"."):
        plugin.send(schema)
    assert sum(clock.slept) == 10


# -- An initsync with an event that is refused for good --------------------------------

REFUSED = problem(413, "event_too_large", "not_stored", index=2)
START_TEXT = "Event not stored: Title of event_too_large. Mend it. (event_too_large)"
TEXT = f"{START_TEXT} Its type is Users, its category initsync."
START, ADDED, LARGE, STOP = (
    new
    for new in (
        ("init-start", None),
        ("added", 1),
        ("added", 2),
        ("init-stop", None),
    )
)


def initsync(plugin: Any) -> str:
    """Send one; give the error's text, none where it went through."""
    try:
        with plugin:
            for kind, pkey in (START, ADDED, LARGE, STOP):
                plugin.send(new_event("initsync", kind, objpkey=pkey))
    except Exception as error:  # noqa: BLE001 - Hermes catches all there
        return str(error)
    return ""


@pytest.fixture
def refused(plugin: Any, fake: FakeSidecar) -> Any:
    """Let an initsync be refused in its middle; give the plugin."""
    fake.then(stands(L), stored(L + 1), REFUSED)
    assert initsync(plugin) == TEXT
    return plugin


def test_an_initsync_is_not_stored_again_up_to_what_is_refused(
    refused: Any, fake: FakeSidecar, clock: Clock
) -> None:
    """It is asked for, after an offset that was taken: it can never be stored so."""
    large = fake.posts[-1]
    for _ in range(3):
        count, started_at = len(fake.posts), clock.now()
        fake.then(stands(L + 2), REFUSED)
        assert initsync(refused) == TEXT
        (post,) = fake.posts[count:]
        assert post.body == large.texts[1]
        key = f"{large.headers['idempotency-key']}.2"
        assert post.headers["idempotency-key"] == key
        assert post.headers["if-match"] == f'"{L}"'
        assert clock.now() - started_at >= 10


@pytest.mark.parametrize(
    "taken_now",
    [taken("ours", L + 2), *says("offset_gone", outcome="unknown")],
    ids=name_of,
)
def test_it_is_stored_once_the_limit_is_another(
    refused: Any, fake: FakeSidecar, taken_now: Reply
) -> None:
    count = len(fake.posts)
    fake.then(stands(L + 2), taken_now, *map(stored, (L + 3, L + 5, L + 6)))
    assert initsync(refused) == ""
    assert [post.headers["if-match"] for post in fake.posts[count:]] == [
        f'"{n}"' for n in (L, L + 2, L + 3, L + 5)
    ]
    count = len(fake.posts)
    fake.then(stands(L + 6), *map(stored, (L + 7, L + 9, L + 10)))
    assert initsync(refused) == ""
    assert len(fake.posts) == count + 3  # nothing is asked for any more


@pytest.mark.parametrize("answer", [*says("nats_down"), NO_ANSWER], ids=name_of)
def test_it_is_not_begun_before_that_is_known(
    refused: Any, fake: FakeSidecar, answer: Any
) -> None:
    fake.then(stands(L + 2), answer)
    count = len(fake.posts)
    assert initsync(refused) == TEXT
    assert len(fake.posts) == count + 1


def test_what_nats_alone_refuses_is_tried_once_an_hour(
    refused: Any, fake: FakeSidecar, clock: Clock
) -> None:
    """The sidecar sees no reason against it, so only the whole sequence shows it."""
    again = [taken("ours", L + 2), stored(L + 3), REFUSED]
    fake.then(stands(L + 2), *again)
    assert initsync(refused) == TEXT
    until, count = clock.now() + 3600, len(fake.posts)
    while clock.now() < until - 60:
        fake.then(stands(L + 4), taken("ours", L + 4))
        assert initsync(refused) == TEXT
        clock.sleep(60)
    assert {post.body for post in fake.posts[count:]} == {fake.posts[count].body}
    clock.sleep(60)
    fake.then(stands(L + 4), taken("ours", L + 4), *map(stored, (L + 5, L + 7, L + 8)))
    assert initsync(refused) == ""


def test_a_pass_that_went_through_or_another_process_forgets_it(
    refused: Any, fake: FakeSidecar
) -> None:
    fake.then(stands(L + 2), stored(L + 3))
    with refused:
        refused.send(new_event())
    count = len(fake.posts)
    fake.then(stands(L + 3), *map(stored, (L + 4, L + 6, L + 7)))
    assert initsync(refused) == ""
    assert len(fake.posts) == count + 3


def test_a_schema_that_is_refused_at_the_start_has_stored_nothing(
    plugin: Any, fake: FakeSidecar
) -> None:
    for _ in range(2):
        fake.then(stands(L), REFUSED)
        assert initsync(plugin) == START_TEXT
        assert fake.posts[-1].headers["if-match"] == f'"{L}"'
