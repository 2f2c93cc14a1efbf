# SPDX-License-Identifier: Apache-2.0
"""What tests/chaos is made of: its model of Hermes, its relay, its damage."""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict
from random import Random
from typing import TYPE_CHECKING, Any

import pytest
from chaos import forge
from chaos.damage import compare
from chaos.forge import Forger
from chaos.proxy import Link
from chaos.report import page
from chaos.source import Source
from support.chaos_replicas import RIGHT, TWICE, copy
from support.odd import Reply

from sidecar.jetstream.client import split_messages

if TYPE_CHECKING:
    from chaos.checker import (
        Message,
    )


# -- The model of Hermes, and the relay ------------------------------------------------


def _pass(source: Source) -> list[bytes]:
    """Let a pass go through, and give the bodies of its events."""
    bodies = []
    for group in source.difference():
        for planned in group:
            source.commit(planned)
            bodies.append(planned.body)
    return bodies


@pytest.mark.usefixtures("hermes_home")
def test_a_source_goes_back_to_older_values_and_its_events_are_the_same() -> None:
    source = Source("Users", Random(1))  # noqa: S311 - to be repeatable
    bodies = []
    for _ in range(40):
        source.change()
        bodies += _pass(source)
        assert source.cache == source.values
        assert not _pass(source)
    assert len(bodies) > 300
    assert len(set(bodies)) < len(bodies) / 2


@pytest.mark.usefixtures("hermes_home")
def test_a_killed_hermes_computes_again_what_it_had_not_saved() -> None:
    source = Source("Users", Random(1))  # noqa: S311 - to be repeatable
    source.change()
    _pass(source)
    source.save()
    source.change()
    lost = set(_pass(source))
    source.restart()
    source.secrets.clear()  # these were wiped where they came from
    assert {each for each in lost if b"password" not in each} <= set(_pass(source))


@pytest.mark.parametrize("split", [1, 8, 40])
def test_a_relay_tells_an_earlier_state_and_passes_on_all_else(split: int) -> None:
    def reply(last: int) -> bytes:
        document = {
            "type": "io.nats.jetstream.api.v1.stream_info_response",
            "state": {"last_seq": last, "num": 1},
            "created": "today",
        }
        body = json.dumps(document, separators=(",", ":")).encode()
        return b"MSG _INBOX.a 1 %d\r\n%b\r\n" % (len(body), body)

    before, after = b"MSG _INBOX.b 1 2\r\nok\r\n", b"PING\r\n"
    whole = before + reply(1_000_000) + after

    async def relay() -> bytes:
        far = asyncio.StreamReader()
        link = Link(None, None, None, far, None)  # type: ignore[arg-type]
        far.feed_data(whole[-split:])
        far.feed_eof()
        return await link._lag(whole[:-split], {"last_seq": 7}) + await far.read()

    assert asyncio.run(relay()) == before + reply(7) + after


# -- Replicas that their server damaged ------------------------------------------------


_LACKING = copy((1, 0), (3, 2))
_SHORT = copy((1, 0), (2, 1))
_OTHER = copy((1, 0), (2, 1), (4, 2))


@pytest.mark.parametrize(
    ("copies", "stream", "damaged", "found"),
    [
        ([RIGHT], RIGHT, [], []),
        ([RIGHT] * 3, RIGHT, [], []),
        ([TWICE, RIGHT, RIGHT], RIGHT, ["n1: 2 events"], []),
        ([RIGHT, RIGHT, TWICE], RIGHT, ["n3: 2 events"], []),
        ([RIGHT, _LACKING, RIGHT], RIGHT, ["n2: 1 events"], []),
        # Not proven: nothing stands in the wrong place.
        ([RIGHT, RIGHT, _SHORT], RIGHT, [], ["n3 holds another"]),
        ([RIGHT, _OTHER, RIGHT], RIGHT, [], ["n2 holds another"]),
        # Not proven: no majority is left, or it does not agree.
        ([TWICE], TWICE, [], ["n1: 2 events"]),
        ([TWICE] * 3, TWICE, [], ["n1: 2 events", "n2: 2", "n3: 2"]),
        (
            [RIGHT, TWICE, _LACKING],
            RIGHT,
            [],
            ["n2 holds another", "n3 holds another", "n2: 2 events", "n3: 1 events"],
        ),
        (
            [RIGHT, TWICE, _SHORT],
            RIGHT,
            [],
            ["n2 holds another", "n3 holds another", "n2: 2 events"],
        ),
    ],
)
def test_a_replica_is_damaged_by_its_server_only_where_a_sound_majority_proves_it(
    copies: list[list[Message]],
    stream: list[Message],
    damaged: list[str],
    found: list[str],
) -> None:
    names = [f"n{number}" for number in range(1, len(copies) + 1)]
    replicas = compare(dict(zip(names, copies, strict=True)))
    assert replicas.messages == stream
    for texts, wanted in (
        ([str(each) for each in replicas.damages], damaged),
        (replicas.violations, found),
    ):
        assert len(texts) == len(wanted)
        assert all(each in text for text, each in zip(texts, wanted, strict=True))


_SUBJECT = "_INBOX_hermes_both.x"
_FRAMES = [
    (f"{_SUBJECT}.1_a", b"", b'{"stream":"hermes","seq":8}'),
    (
        f"{_SUBJECT}.2_b",
        b"NATS/1.0\r\nNats-Stream: hermes\r\nNats-Sequence: 8\r\n\r\n",
        b"{}",
    ),
    (f"{_SUBJECT}.3_c", b"", b'{"type":"io.nats.jetstream.api.v1.x_response"}'),
]


@pytest.mark.parametrize("seed", range(30))
def test_spoilt_answers_are_whole_messages_and_guess_no_token(seed: int) -> None:
    forger = Forger(Random(seed))  # noqa: S311 - to be repeatable
    for subject, block, data in _FRAMES:
        frame = forge.frame(subject.encode(), b"1", Reply(block, data))
        assert forger.spoil(frame[:-1]) == (frame[:-1], 1)
        spoilt, lacks_bytes = forger.spoil(frame + b"PING\r\n")
        split = split_messages(spoilt)
        assert not lacks_bytes
        assert spoilt[split.end :] == b"PING\r\n"
        assert split.messages
        others = {one[0] for one in split.messages} - {subject}
        assert not others & {each[0] for each in _FRAMES}


def test_a_damage_is_told_with_what_proves_it() -> None:
    damages = compare({"n1": RIGHT, "n2": TWICE, "n3": RIGHT}).damages
    assert damages[0].pairs == ((3, 1), (4, 2))
    run = {"seed": 5, "topology": "cluster", "server_version": "2.12.8"}
    row = run | {"server_damage": [asdict(damages[0])]}
    assert page([row | _COUNTS]).count("| n2 | 3 | 2 | 3 (1), 4 (2) |") == 1
    assert "damage" not in page([run | _COUNTS]).partition("## Faults")[2]


_COUNTS: dict[str, Any] = dict.fromkeys(
    (
        *("acknowledged", "standing", "not_stored"),
        *("unknown_stored", "unknown_absent", "killed", "read", "scans"),
    ),
    0,
) | {"late": {}, "faults": {}, "repeats": {}, "violations": []}
