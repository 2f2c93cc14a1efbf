# SPDX-License-Identifier: Apache-2.0
"""What the NATS user must be allowed to do, and whether it is: each subject is tried.

nats-server tells a user's permissions to nobody, but it refuses at once what lacks one.
Nothing of what is sent here is stored or answered: the events have a precondition that
no stream can meet, the other requests say no inbox.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from sidecar.jetstream.client import header_block
from sidecar.jetstream.service import ANSWERS, NAME, QUESTION

if TYPE_CHECKING:
    from sidecar.jetstream.connection import Connection
    from sidecar.model.stream import StreamPlan

_CATEGORIES: Final = ("base", "initsync")  # that Hermes sends
_IMPOSSIBLE: Final = header_block(
    {
        b"Nats-Expected-Stream": b"no.stream.has.a.dot",
        b"Nats-Expected-Last-Sequence": b"%d" % (2**63 - 1),
    }
)
"""JetStream refuses what has one of these, before it proposes anything: with error
10060, expected stream does not match."""

_TRIED: Final = "check"
_LATE_WORD: Final = "waiting readers ask the stream's leader more often"
_OWN_CLIENTS: Final = "each sidecar shows its own clients only"
_MICRO: Final = "`nats micro` does not show this sidecar"


class Permission(NamedTuple):
    """One that a role needs; `tried` is the subject that is tried for it.

    `without`: what follows where it is missing; empty if the sidecar cannot work then.
    """

    kind: Literal["publish", "subscribe"]
    subject: str
    tried: str
    payload: bytes = b""
    block: bytes = b""
    without: str = ""


def needed(
    role: str, plan: StreamPlan, inbox_prefix: str, *, creates: bool
) -> list[Permission]:
    """Give the permissions of docs/nats.md for a role: producer, consumer or both."""
    writes, reads = role != "consumer", role != "producer"
    inbox = f"{inbox_prefix}.>"
    found = [Permission("subscribe", inbox, f"{inbox_prefix}.{_TRIED}.*")]
    if writes:
        subjects = map(plan.subject_of, _CATEGORIES)
        found += [_publish(subject, block=_IMPOSSIBLE) for subject in subjects]
    api = "$JS.API"
    found += [
        _publish(f"{api}.STREAM.INFO.{plan.name}"),
        _publish(f"{api}.STREAM.MSG.GET.{plan.name}"),
    ]
    slower = "" if reads else "the first pass of a hermes-server begins more slowly"
    found.append(_publish(f"{api}.DIRECT.GET.{plan.name}", without=slower))
    if creates:  # what is no JSON creates nothing
        found.append(_publish(f"{api}.STREAM.CREATE.{plan.name}", payload=b"check"))
    told = plan.stored_subject
    if writes:
        found.append(_publish(told, without=_LATE_WORD))
    if reads:
        found.append(Permission("subscribe", told, told, without=_LATE_WORD))
    return found + _of_services()


def _of_services() -> list[Permission]:
    answers, asked = f"{ANSWERS}.>", f"$SRV.*.{NAME}"
    return [
        _publish(QUESTION, without=_OWN_CLIENTS),
        _publish(answers, f"{ANSWERS}.{_TRIED}", without=_OWN_CLIENTS),
        Permission("subscribe", answers, f"{ANSWERS}.{_TRIED}.*", without=_OWN_CLIENTS),
        Permission("subscribe", asked, asked, without=_OWN_CLIENTS),
        _publish("_INBOX.>", f"_INBOX.{_TRIED}", without=_MICRO),
        Permission("subscribe", "$SRV.*", "$SRV.*", without=_MICRO),
        Permission("subscribe", f"{asked}.*", f"{asked}.*", without=_MICRO),
    ]


def _publish(
    subject: str,
    tried: str = "",
    *,
    payload: bytes = b"",
    block: bytes = b"",
    without: str = "",
) -> Permission:
    return Permission("publish", subject, tried or subject, payload, block, without)


async def lacking(
    connection: Connection, permissions: list[Permission]
) -> list[Permission]:
    """Try each; give those that the server refuses. Raises NoReply where it is silent.

    The connection is one that was opened with `outlives_refusals`.
    """
    refused = await connection.try_out(
        [each.tried for each in permissions if each.kind == "subscribe"],
        [
            (each.tried, each.payload, each.block)
            for each in permissions
            if each.kind == "publish"
        ],
    )
    return [each for each in permissions if (each.kind, each.tried.lower()) in refused]
