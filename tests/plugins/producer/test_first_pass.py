# SPDX-License-Identifier: Apache-2.0
"""The first pass of a process of hermes-server: what its predecessor had sent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from support.fake_sidecar import (
    FakeSidecar,
    L,
    matches,
    passed,
    problem,
    stands,
    stored,
    taken,
    unknown,
)
from support.hermes import new_event
from support.producer_passes import (
    ANOTHER,
    REFUSED,
    SECRET,
    a_pass,
    lose,
    user,
)

from sidecar.model.last_pass import digest_of

if TYPE_CHECKING:
    from collections.abc import Callable

START = L - 10

RECOGNISED = "recognised 1 events that a killed hermes-server had sent"


@pytest.fixture
def killed(plugin: Any, fake: FakeSidecar) -> Callable[..., None]:
    """Let the pass of a killed one hold these users' newest events, from L - 9 on."""

    def hold(*pkeys: int, first: int = START + 1, **of: Any) -> None:
        objects = [
            f"{digest_of(plugin._keys_start, 'Users', pkey)} {offset}"
            for offset, pkey in enumerate(pkeys, first)
        ]
        fake.last_pass = passed(START, *objects, **of)

    return hold


def asked(fake: FakeSidecar) -> list[str]:
    """Give what was asked, without the stream's end."""
    return [each.path for each in fake.requests if each.path != "/v1/stream"]


def test_what_is_in_the_stream_is_not_stored_again(
    plugin: Any,
    fake: FakeSidecar,
    killed: Callable[..., None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    removed = user("removed", pkey=7)
    killed(7)
    fake.then(stands(L), matches(L), stored(L + 1))
    assert a_pass(plugin, removed, user(pkey=8)) is None
    assert asked(fake) == [f"/v1/match?offset={START + 1}", "/v1/events"]
    assert fake.posts[0].body == removed.to_json().encode()
    assert fake.posts[1].headers["idempotency-key"][24:].startswith(f"{START}-")
    assert caplog.text.count(RECOGNISED) == 1
    assert "did not come again" not in caplog.text
    assert SECRET not in caplog.text


def test_what_differs_is_stored(
    plugin: Any, fake: FakeSidecar, killed: Callable[..., None]
) -> None:
    killed(7)
    fake.then(stands(L), matches(L, matches=False), stored(L + 1))
    assert a_pass(plugin, user(pkey=7)) is None
    assert asked(fake) == [f"/v1/match?offset={START + 1}", "/v1/events"]


def test_it_is_asked_before_the_first_event_and_in_no_later_pass(
    plugin: Any, fake: FakeSidecar, killed: Callable[..., None]
) -> None:
    killed(7)
    fake.then(stands(L))
    assert not fake.passes
    fake.then(stands(L), stored(L + 1), stands(L + 1), stored(L + 2))
    assert a_pass(plugin, user(pkey=1)) is None
    assert a_pass(plugin, user(pkey=7)) is None
    assert [each.path for each in fake.passes] == ["/v1/passes/last"]
    assert fake.passes[0].headers["hermes-producer"] == plugin._keys_start
    keys = [each.headers["idempotency-key"][24:] for each in fake.posts]
    assert keys == [f"{START}-1-0", f"{L + 1}-2-1"]


def test_a_pass_without_an_event_asks_nothing_and_ends_it(
    plugin: Any, fake: FakeSidecar, killed: Callable[..., None]
) -> None:
    killed(7)
    fake.then(stands(L), stands(L), stored(L + 1))
    assert a_pass(plugin) is None
    assert a_pass(plugin, user(pkey=7)) is None
    assert not fake.passes


def test_without_an_answer_nothing_is_sent(plugin: Any, fake: FakeSidecar) -> None:
    fake.last_pass = problem(503, "nats_down", None, "1")
    fake.then(stands(L))
    assert a_pass(plugin, user()) == (
        "No message bus: Title of nats_down. Mend it. (nats_down)"
    )
    assert not fake.posts


@pytest.mark.parametrize("objects", [["x"], ["ABCDEFGHIJK 7 "], [f"{'é' * 11} 7"]])
def test_what_no_sidecar_says_is_not_believed(
    plugin: Any, fake: FakeSidecar, objects: list[str]
) -> None:
    fake.last_pass = passed(START, *objects)
    fake.then(stands(L))
    text = a_pass(plugin, user())
    assert text is not None
    assert text.startswith("the sidecar answers with an offset")
    assert not fake.posts


def test_passes_that_fail_and_come_again_count_as_the_first(
    plugin: Any, fake: FakeSidecar, killed: Callable[..., None]
) -> None:
    killed(6, 7)
    fake.then(stands(L), matches(L), REFUSED)
    assert a_pass(plugin, user("removed", pkey=6), user(pkey=1)) is not None
    fake.then(stands(L), matches(L), stored(L + 1))
    assert a_pass(plugin, user("removed", pkey=7), user(pkey=1)) is None
    paths = [each.path for each in fake.passes]
    assert paths == ["/v1/passes/last", f"/v1/passes/{START}"]


def test_what_could_not_be_asked_is_asked_in_the_next_pass(
    plugin: Any, fake: FakeSidecar, killed: Callable[..., None]
) -> None:
    removed = user("removed", pkey=7)
    killed(7)
    fake.then(stands(L), problem(503, "nats_down", None, "1"))
    assert a_pass(plugin, removed) is not None
    fake.then(stands(L), matches(L))
    assert a_pass(plugin, removed) is None
    assert asked(fake)[-1] == f"/v1/match?offset={START + 1}"


@pytest.mark.parametrize("outcome", [REFUSED, unknown()])
def test_an_event_that_was_tried_ends_it_for_its_object(
    plugin: Any, fake: FakeSidecar, killed: Callable[..., None], outcome: Any
) -> None:
    """The one that was told unknown may land behind what is recognised."""
    killed(7)
    fake.then(stands(L), matches(L, matches=False), outcome)
    assert a_pass(plugin, user(pkey=7, value=2)) is not None
    fake.then(stands(L), stored(L + 1))
    assert a_pass(plugin, user(pkey=7)) is None
    assert asked(fake)[-1] == "/v1/events"


def test_an_object_that_was_recognised_may_be_once_more(
    plugin: Any,
    fake: FakeSidecar,
    killed: Callable[..., None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Another hermes-server removed it meanwhile: twice would be for good."""
    killed(6, 7)
    fake.then(stands(L), matches(L), matches(L), REFUSED)
    assert a_pass(plugin, user(pkey=6), user(pkey=7), user(pkey=8)) is not None
    killed(6, 7, first=START + 5)
    fake.then(stands(L), matches(L))
    assert a_pass(plugin, user("removed", pkey=7)) is None
    assert fake.is_matched
    assert "recognised 3 events" in caplog.text  # of user 7 two
    assert "did not come again" not in caplog.text


@pytest.mark.parametrize("kind", ["added", "removed"])
def test_its_own_removal_ends_it_for_what_is_no_removal(
    plugin: Any, fake: FakeSidecar, killed: Callable[..., None], kind: str
) -> None:
    killed(7)
    fake.then(stands(L), stored(L + 1), REFUSED)
    assert a_pass(plugin, user("removed", pkey=1), user(pkey=2)) is not None
    is_recognised = kind == "removed"
    then = matches(L + 1) if is_recognised else stored(L + 2)
    fake.then(stands(L + 1), then)
    assert a_pass(plugin, user(kind, pkey=7)) is None
    assert fake.is_matched is is_recognised


@pytest.mark.parametrize(
    ("category", "kind"), [("base", "dataschema"), ("initsync", "init-stop")]
)
def test_a_schema_or_an_initsync_ends_it_even_if_it_fails(
    plugin: Any,
    fake: FakeSidecar,
    killed: Callable[..., None],
    category: str,
    kind: str,
) -> None:
    ends = new_event(category, kind, objtype=None, objpkey=None)
    killed(7)
    fake.then(stands(L), REFUSED)
    assert a_pass(plugin, ends) is not None
    fake.then(stands(L), stored(L + 1))
    assert a_pass(plugin, user(pkey=7)) is None
    assert asked(fake)[-1] == "/v1/events"


@pytest.mark.parametrize("category", ["initsync", "base"])
def test_only_a_base_event_is_recognised(
    plugin: Any, fake: FakeSidecar, killed: Callable[..., None], category: str
) -> None:
    killed(7)
    fake.then(stands(L), matches(L) if category == "base" else stored(L + 1))
    assert a_pass(plugin, new_event(category, "added", objpkey=7)) is None
    assert fake.is_matched is (category == "base")


def test_another_producer_ends_the_pass_though_nothing_is_sent(
    plugin: Any, fake: FakeSidecar, killed: Callable[..., None]
) -> None:
    killed(7)
    fake.then(stands(L), matches(L + 1, key="theirs"))
    assert a_pass(plugin, user(pkey=7)) == ANOTHER


def test_what_did_not_come_again_is_told_with_its_number(
    plugin: Any,
    fake: FakeSidecar,
    killed: Callable[..., None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    killed(6, 7, 8, 9)
    fake.then(stands(L), matches(L), matches(L, matches=False), stored(L + 1))
    assert a_pass(plugin, user(pkey=6), user(pkey=7)) is None
    assert RECOGNISED in caplog.text
    assert "2 further events of the pass" in caplog.text
    assert "an initsync corrects it" in caplog.text


def test_after_a_stop_without_a_kill_nothing_is_told(
    plugin: Any,
    fake: FakeSidecar,
    killed: Callable[..., None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    killed(6, 7, 8, 9)
    fake.then(stands(L), stored(L + 1))
    assert a_pass(plugin, user(pkey=1)) is None
    assert "killed" not in caplog.text


def test_secrets_that_come_at_each_start_are_not_told(
    plugin: Any,
    fake: FakeSidecar,
    killed: Callable[..., None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Hermes never saves them: it need not have been killed."""
    changes = {"added": {"password": SECRET}, "modified": {}, "removed": {}}
    killed(6, 7)
    fake.then(stands(L), matches(L))
    event = new_event("base", "modified", objpkey=7, objattrs=changes)
    assert a_pass(plugin, event) is None
    assert fake.is_matched
    assert "killed" not in caplog.text


def test_a_pass_that_is_too_long_is_told(
    plugin: Any, fake: FakeSidecar, caplog: pytest.LogCaptureFixture
) -> None:
    fake.last_pass = passed(START, complete=False)
    for _ in range(3):
        fake.then(stands(L), REFUSED)
        assert a_pass(plugin, user(pkey=1)) is not None
    fake.then(stands(L), stored(L + 1))
    assert a_pass(plugin, user(pkey=1)) is None
    assert caplog.text.count("more than 100000 events") == 1


def test_what_was_recognised_is_told_though_an_initsync_ends_it(
    plugin: Any,
    fake: FakeSidecar,
    killed: Callable[..., None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    killed(7)
    fake.then(stands(L), matches(L), REFUSED)
    assert a_pass(plugin, user(pkey=7), user(pkey=8)) is not None
    stop = new_event("initsync", "init-stop", objtype=None, objpkey=None)
    fake.then(stands(L), stored(L + 1))
    assert a_pass(plugin, stop) is None
    assert caplog.text.count(RECOGNISED) == 1
    assert "did not come again" not in caplog.text


def test_its_late_copy_ends_the_pass_and_is_of_the_next_ones(
    plugin: Any, fake: FakeSidecar, killed: Callable[..., None]
) -> None:
    """The killed one's last request may still be on its way."""
    late = f"11111111-1111-4111-8111-{START}-1-7"
    killed(6)
    fake.then(stands(L), taken(late, L + 1))
    assert a_pass(plugin, user("removed", pkey=7)) == ANOTHER
    killed(6, 7, last=L + 1)
    fake.then(stands(L + 1), matches(L + 1, key=late))
    assert a_pass(plugin, user("removed", pkey=7)) is None
    assert fake.is_matched


def test_what_is_recognised_in_several_attempts_is_told_once(
    plugin: Any,
    fake: FakeSidecar,
    killed: Callable[..., None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    killed(6, 7)
    for _ in range(3):
        fake.then(stands(L), matches(L), matches(L), REFUSED)
        assert a_pass(plugin, user(pkey=6), user(pkey=7), user(pkey=8)) is not None
    fake.then(stands(L), matches(L), matches(L), stored(L + 1))
    assert a_pass(plugin, user(pkey=6), user(pkey=7), user(pkey=8)) is None
    assert "recognised 2 events" in caplog.text


@pytest.mark.parametrize("is_ours", [True, False])
def test_what_a_doubt_became_is_learnt_before_another_producer_ends_the_pass(
    plugin: Any, fake: FakeSidecar, killed: Callable[..., None], is_ours: bool
) -> None:
    """Else open() keeps its L, and each pass ends like this one."""
    killed(7)
    key = lose(plugin, fake, user("added", pkey=1))
    its_key = key if is_ours else "theirs"
    fake.then(
        stands(L + 2, "theirs"),
        matches(L + 2, key="theirs"),
        matches(L + 2, key="theirs", its_key=its_key, matches=False),
    )
    assert a_pass(plugin, user("removed", pkey=7), user(pkey=2)) == ANOTHER
    assert asked(fake)[-1] == f"/v1/match?offset={L + 1}"
    fake.then(stands(L + 2), matches(L + 2), stored(L + 3))
    assert a_pass(plugin, user("removed", pkey=7), user(pkey=2)) is None
    assert fake.posts[-1].headers["if-match"] == f'"{L + 2}"'
    assert fake.posts[-2].path == f"/v1/match?offset={START + 1}"


def test_a_doubt_of_which_nobody_will_know_more_is_forgotten(
    plugin: Any, fake: FakeSidecar, killed: Callable[..., None]
) -> None:
    killed(7)
    lose(plugin, fake, user("added", pkey=1))
    fake.then(stands(L + 2, "theirs"), matches(L + 2), matches(L + 2, first=L + 2))
    assert a_pass(plugin, user("removed", pkey=7)) == ANOTHER
    fake.then(stands(L + 2), stored(L + 3))
    assert a_pass(plugin, user(pkey=1)) is None
    assert fake.posts[-1].headers["if-match"] == f'"{L + 2}"'


def test_an_old_leader_does_not_say_what_a_doubt_became(
    plugin: Any, fake: FakeSidecar, killed: Callable[..., None]
) -> None:
    killed(7)
    lose(plugin, fake, user("added", pkey=1))
    fake.then(stands(L + 2, "theirs"), matches(L + 2), matches(L))
    assert a_pass(plugin, user("removed", pkey=7)) == ANOTHER
    assert plugin._doubts.are_open
