# SPDX-License-Identifier: Apache-2.0
"""Scripted scenarios whose answers the model must give as real nats-servers do."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final

from .sides import STREAM, SUBJECT, Side, fences

if TYPE_CHECKING:
    from collections.abc import Callable

    Scenario = Callable[[Side], list[Any]]

_TIME = re.compile(rb"\d{4}-\d\d-\d\dT[\d:.]+Z")
_CONFIG = (
    "name",
    "subjects",
    "storage",
    "retention",
    "discard",
    "max_age",
    "max_bytes",
    "max_msgs",
    "max_msgs_per_subject",
    "max_msg_size",
    "num_replicas",
    "duplicate_window",
    "first_seq",
    "allow_direct",
    "deny_delete",
    "deny_purge",
    "sealed",
    "allow_rollup_hdrs",
    "allow_msg_ttl",
    "allow_atomic",
)
_STATE = "messages", "bytes", "first_seq", "last_seq", "num_subjects", "subjects"
_LIVE_NANOSECONDS = 3e9


def answers(value: Any) -> Any:
    """Make answers comparable: without times."""
    if isinstance(value, bytes):
        return _TIME.sub(b"T", value).decode("utf-8", "replace")
    if isinstance(value, (list, tuple)):
        return [answers(each) for each in value]
    if isinstance(value, dict):
        return {name: answers(each) for name, each in value.items() if name != "time"}
    return value


def info_fields(document: Any) -> Any:
    """Give what the sidecar reads of STREAM.INFO."""
    if "error" in document:
        return document["error"]
    cluster = document.get("cluster") or {}
    others = cluster.get("replicas") or []
    return {
        "type": document["type"],
        "config": {name: document["config"].get(name) for name in _CONFIG},
        "state": {name: document["state"].get(name) for name in _STATE},
        "created": _TIME.sub(b"T", document["created"].encode()),
        "leads": bool(cluster.get("leader"))
        and cluster["leader"] not in [each["name"] for each in others],
        "others": [
            each.get("active", 0) < _LIVE_NANOSECONDS and not each.get("offline")
            for each in others
        ],
    }


def info(side: Side) -> Any:
    return info_fields(side.info())


# -- Publishing ------------------------------------------------------------------------


def acknowledged(side: Side) -> list[Any]:
    side.create(first_seq=1000)
    return [
        side.publish(key="k1", stream=STREAM, last=999),
        side.publish(key="k2", stream=STREAM, last=1000),
        side.publish(subject=f"{STREAM}.initsync"),
        info(side),
    ]


def the_same_again(side: Side) -> list[Any]:
    """In both orders of checks: a repetition, with its own and with the true last."""
    side.create()
    return [
        side.publish(key="k1", stream=STREAM, last=0),
        side.publish(key="k1", stream=STREAM, last=0),
        side.publish(key="k1", stream=STREAM, last=1),
        side.publish(key="k1", body=b"other", subject=f"{STREAM}.other"),
        side.publish(key="k1", stream=STREAM, last=77),
        info(side),
    ]


def wrong_last(side: Side) -> list[Any]:
    """Use a refused id again, which three replicas before 2.12 do not take."""
    side.create()
    return [
        side.publish(key="k1", last=0),
        side.publish(key="k2", last=7),
        side.publish(key="k2", last=7),
        side.publish(key="k2", last=1),
        side.publish(key="k3", last=0),
        info(side),
    ]


def outside_the_window(side: Side) -> list[Any]:
    side.create(duplicate_window=100_000_000)
    first = side.publish(key="k1", last=0)
    side.sleep(0.5)
    return [first, side.publish(key="k1", last=0), side.publish(key="k1")]


def another_stream(side: Side) -> list[Any]:
    side.create()
    return [
        side.publish(key="k1", stream="other", last=0),
        side.publish(key="k1", stream=STREAM, last=0),
        side.publish(key="k1", stream="other", last=0),
    ]


def unreadable_fence(side: Side) -> list[Any]:
    side.create()
    return [side.publish(last="abc"), side.publish(last=""), side.publish(last="")]


def too_large(side: Side) -> list[Any]:
    """max_msg_size counts headers."""
    side.create(max_msg_size=200)
    body = b"a" * 150
    return [
        side.publish(b"a" * 300, key="k1", last=0),
        side.publish(body, key="k1", stream=STREAM, last=0),
        side.publish(body),
        side.publish(b"a" * 300, key="k2", last=0),
        side.publish(b"a" * 300, key="k2", stream="other", last=1),
        side.publish(key="k1", last=1),
        side.publish(b"a" * 300, key="k1", last=2),
    ]


def full_of_messages(side: Side) -> list[Any]:
    side.create(max_msgs=2)
    return [
        side.publish(key="k1", last=0),
        side.publish(key="k2", last=1),
        side.publish(key="k3", last=2),
        side.publish(key="k3", last=2),
        side.publish(key="k4", last=0),
        side.publish(key="k1", last=2),
        info(side),
    ]


def full_of_bytes(side: Side) -> list[Any]:
    side.create(max_bytes=300)
    body = b"a" * 40
    return [
        side.publish(body, key="k1", stream=STREAM, last=0),
        side.publish(body, key="k2", stream=STREAM, last=1),
        side.publish(b"", last=1),
        info(side),
    ]


def nobody_listens(side: Side) -> list[Any]:
    before = [side.publish(), side.direct(seq=1, batch=2), info(side)]
    side.create()
    return [*before, side.publish(subject="other.base"), side.publish()]


def at_once(side: Side) -> list[Any]:
    """One of several copies is stored; what the others hear is a matter of moments."""
    side.create()
    requests = [
        (SUBJECT, b"%d" % number, fences(key="k", stream=STREAM, last=0))
        for number in range(4)
    ]
    told = [json.loads(each) for each in side.ask_at_once(requests)]
    stored = [each for each in told if "error" not in each and "duplicate" not in each]
    codes = {each["error"]["err_code"] for each in told if "error" in each}
    return [stored, codes <= {10071, 10158}, info(side)["state"]]


def different_ones_at_once(side: Side) -> list[Any]:
    side.create()
    requests = [
        (SUBJECT, b"{}", fences(key=f"k{number}", stream=STREAM, last=0))
        for number in range(4)
    ]
    return [*side.ask_at_once(requests), info(side)["state"]]


def over_max_payload(side: Side) -> list[Any]:
    """Be cut off by the server, which stores nothing of it."""
    side.create()
    told = side.publish(b"a" * (8 << 20) + b"b")
    errors = [*side.errors, side.is_closed]
    side.connect(0)
    return [told, errors, info(side)["state"]]


# -- Reading ---------------------------------------------------------------------------


def _fill(side: Side) -> None:
    side.create(first_seq=10)
    for number in range(5):
        side.publish(b"e%d" % number, key=f"k{number}", stream=STREAM, last=9 + number)
    side.publish(b"i", f"{STREAM}.initsync")
    side.publish(b"f", key="k6")
    side.api(f"STREAM.MSG.DELETE.{STREAM}", {"seq": 12})
    side.sleep(0.3)  # the other replicas


def single_reads(side: Side) -> list[Any]:
    _fill(side)
    requests: list[dict[str, Any]] = [
        {"seq": 10},
        {"seq": 12},
        {"seq": 1},
        {"seq": 99},
        {"seq": 12, "next_by_subj": ">"},
        {"seq": 1, "next_by_subj": f"{STREAM}.initsync"},
        {"seq": 16, "next_by_subj": f"{STREAM}.initsync"},
        {"seq": 11, "next_by_subj": SUBJECT},
        {"last_by_subj": SUBJECT},
        {"last_by_subj": f"{STREAM}.nothing"},
        {"start_time": "2020-01-01T00:00:00Z"},
        {"start_time": "2120-01-01T00:00:00.123456789Z"},
        {},
    ]
    return [side.api(f"STREAM.MSG.GET.{STREAM}", request) for request in requests]


def reads_by_time(side: Side) -> list[Any]:
    _fill(side)
    third = side.api(f"STREAM.MSG.GET.{STREAM}", {"seq": 13})["message"]["time"]
    return [side.api(f"STREAM.MSG.GET.{STREAM}", {"start_time": third})]


def batches(side: Side) -> list[Any]:
    """From before the first, from a hole, to the end, beyond it, filtered, bounded."""
    _fill(side)
    large = 1 << 20
    return [
        side.direct(seq=10, batch=3, max_bytes=large),
        side.direct(seq=1, batch=2, max_bytes=large),
        side.direct(seq=12, batch=1, max_bytes=large),
        side.direct(seq=14, batch=100, max_bytes=large),
        side.direct(seq=16, batch=1, max_bytes=large),
        side.direct(seq=17, batch=100, max_bytes=large),
        side.direct(seq=1, batch=100, max_bytes=100),
        side.direct(seq=1, batch=100, max_bytes=250),
        side.direct(seq=1, batch=9, max_bytes=large, next_by_subj=f"{STREAM}.initsync"),
        side.direct(seq=12, batch=2, max_bytes=large, next_by_subj=SUBJECT),
        side.direct(seq=1, batch=9, max_bytes=large, next_by_subj=f"{STREAM}.nothing"),
        side.direct(seq=10),
        side.direct(seq=12),
        side.direct(multi_last=[f"{STREAM}.*"], batch=9, max_bytes=large),
        side.direct(multi_last=[f"{STREAM}.*"], batch=1, max_bytes=large),
        side.direct(multi_last=[f"{STREAM}.*"], batch=9, max_bytes=10),
        side.direct(multi_last=[SUBJECT, f"{STREAM}.nothing"], batch=9),
        side.direct(multi_last=[f"{STREAM}.nothing"], batch=9),
    ]


def counted_by_subject(side: Side) -> list[Any]:
    _fill(side)
    document = side.api(f"STREAM.INFO.{STREAM}", {"subjects_filter": f"{STREAM}.*"})
    return [info_fields(document), document["total"], document["limit"]]


# -- The stream's life -----------------------------------------------------------------


def created(side: Side) -> list[Any]:
    """Where a new stream begins, and a second creation."""
    plain = side.create()
    again = side.create()
    other = side.create(max_msgs=77)
    return [
        {name: plain["config"].get(name) for name in _CONFIG},
        {name: plain["state"].get(name) for name in _STATE},
        plain["did_create"],
        again["created"] == plain["created"],
        other["error"],
    ]


def empty(side: Side) -> list[Any]:
    side.create(first_seq=1_800_000_000_000_000)
    return [
        info(side),
        side.direct(seq=1, batch=10, max_bytes=1000),
        side.api(f"STREAM.MSG.GET.{STREAM}", {"seq": 1, "next_by_subj": ">"}),
        side.publish(last=0),
        side.publish(last=1_799_999_999_999_999),
    ]


def purged(side: Side) -> list[Any]:
    """Numbers go on after a purge, and ids are known that stand nowhere any more."""
    _fill(side)
    part = side.api(f"STREAM.PURGE.{STREAM}", {"seq": 14})
    after = info(side)["state"]
    everything = side.api(f"STREAM.PURGE.{STREAM}")
    return [
        part,
        after,
        everything,
        info(side)["state"],
        side.publish(key="k1", last=10),
        side.publish(key="new", last=16),
        info(side)["state"],
    ]


def deleted_and_made_anew(side: Side) -> list[Any]:
    side.create()
    before = [side.publish(key="k1", last=0), side.publish(key="k2", last=1)]
    gone = side.api(f"STREAM.DELETE.{STREAM}")
    side.await_removal()
    answers_of_none = [side.publish(key="k3", last=2), info(side)]
    side.create(first_seq=3)
    return [
        *before,
        gone,
        *answers_of_none,
        info(side),
        side.publish(key="k3", last=2),
        side.publish(key="k1", last=3),
    ]


def another_name(side: Side) -> list[Any]:
    side.create()
    return [
        side.api("STREAM.INFO.other"),
        side.api("STREAM.MSG.GET.other", {"seq": 1}),
        side.ask("$JS.API.DIRECT.GET.other", b'{"seq":1,"batch":2}'),
    ]


EVERYWHERE: Final[tuple[Scenario, ...]] = (
    acknowledged,
    the_same_again,
    wrong_last,
    outside_the_window,
    another_stream,
    unreadable_fence,
    too_large,
    full_of_messages,
    full_of_bytes,
    nobody_listens,
    at_once,
    different_ones_at_once,
    over_max_payload,
    single_reads,
    reads_by_time,
    batches,
    counted_by_subject,
    created,
    empty,
    purged,
    deleted_and_made_anew,
    another_name,
)
