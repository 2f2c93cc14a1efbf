# SPDX-License-Identifier: Apache-2.0
"""Passes of hermes-server through the producer plugin, and events that they lose."""

from __future__ import annotations

import importlib
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from .fake_sidecar import (
    FakeSidecar,
    L,
    problem,
    stands,
    taken,
    unknown,
)
from .hermes import new_event
from .jetstream import RawNatsClient

if TYPE_CHECKING:
    from collections.abc import Callable

    from .nats import NatsProcess

FAMILY = "messagebus_producers"
SECRET = "c0rrect-horse"
REFUSED = problem(413, "too_large", "not_stored")


def failed() -> type[Exception]:
    error: type[Exception] = importlib.import_module(
        "lib.plugins"
    ).FailedToSendEventError
    return error


def send(plugin: Any, event: Any) -> str | None:
    """Send as hermes-server does; give the error's text, None for none."""
    try:
        plugin.send(event)
    except failed() as error:
        return clean(error)
    return None


def clean(error: Exception) -> str:
    """Give an error's text, which shows no payload, nor does what is behind it."""
    assert SECRET not in str(error)
    assert error.__suppress_context__ or error.__context__ is None
    return str(error)


def long_started(plugin: Any) -> Any:
    """Give a plugin that asks for no pass of a process before it."""
    plugin._last_pass.end()
    return plugin


def a_pass(
    plugin: Any, *events: Any, once_open: Callable[[], None] = lambda: None
) -> str | None:
    """One pass of hermes-server: it ends with the first event that fails."""
    try:
        with plugin:
            once_open()
            for event in events:
                plugin.send(event)
    except Exception as error:  # noqa: BLE001 - Hermes catches all there
        return clean(error)
    return None


def hermes_fails(plugin: Any, *events: Any) -> None:
    """Let a query of the datasource, `commit_one`, fail behind these events."""
    with suppress(ValueError), plugin:
        for event in events:
            plugin.send(event)
        raise ValueError("query")


def once(plugin: Any) -> str | None:
    """One pass of a plugin that is then thrown away."""
    text = a_pass(plugin, user())
    plugin.close()
    return text


def user(kind: str = "modified", pkey: int = 1, **attributes: Any) -> Any:
    return new_event(
        "base", kind, objpkey=pkey, objattrs={"secret": SECRET} | attributes
    )


def lose(plugin: Any, fake: FakeSidecar, event: Any, last: int = L) -> str:
    """Let a pass lose an event: nobody knows whether it was stored. Give its key."""
    fake.then(stands(last), unknown())
    text = a_pass(plugin, event)
    assert text is not None
    assert text.startswith("It is not known whether the event was stored")
    return fake.posts[-1].headers["idempotency-key"]


def lose_and_learn(plugin: Any, fake: FakeSidecar, event: Any) -> str:
    """Lose an event, and learn in a pass that fails that it stands at L + 1."""
    key = lose(plugin, fake, event)
    fake.then(stands(L + 1), taken(key, L + 1), REFUSED)
    assert a_pass(plugin, user(pkey=2)) is not None
    return key


AHEAD = problem(409, "offset_ahead", "not_stored")
GONE = problem(410, "offset_gone", "unknown")
NOTHING = pytest.mark.parametrize("nothing", [AHEAD, GONE], ids=["409", "410"])


ANOTHER = (
    "Event not stored: "
    "another producer wrote to the stream; Hermes computes its changes again"
)


def bodies(nats: NatsProcess, since: int) -> list[bytes]:
    with RawNatsClient(nats.port) as operator:
        last = operator.state("hermes")["last_seq"]
        return [operator.body("hermes", n) for n in range(since + 1, last + 1)]
