# SPDX-License-Identifier: Apache-2.0
"""The JetStream API of the modelled servers (server/jetstream_api.go).

A request reaches every server; who may answer it is for each to say.
"""

from __future__ import annotations

import base64
import json
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from .copies import ITS_SHARE, reply_late
from .messages import (
    BAD_REQUEST,
    NAME_IN_USE,
    NO_MESSAGE,
    NO_STREAM,
    UNAVAILABLE,
    Refusal,
    StoredMessage,
    api_answer,
    nanoseconds,
    rfc3339,
    status_block,
)
from .replica import Change, Replica

if TYPE_CHECKING:
    from .links import Origin
    from .server import Server
    from .store import Store

SLIP_CHANCE: Final = 0.1
SLIP_SECONDS: Final = (0.001, 0.005)
DELETE_SECONDS: Final = 0.03  # until each replica has heard of it
_PREFIX = "$JS.API."
_DEFAULTS: dict[str, Any] = {
    "retention": "limits",
    "max_consumers": -1,
    "max_msgs": -1,
    "max_bytes": -1,
    "max_age": 0,
    "max_msgs_per_subject": -1,
    "max_msg_size": -1,
    "discard": "old",
    "storage": "file",
    "num_replicas": 1,
    "duplicate_window": 120_000_000_000,
    "compression": "none",
    "allow_direct": False,
    "mirror_direct": False,
    "sealed": False,
    "deny_delete": False,
    "deny_purge": False,
    "allow_rollup_hdrs": False,
    "consumer_limits": {},
    "allow_msg_ttl": False,
}


def full_config(request: dict[str, Any]) -> dict[str, Any]:
    """Give a configuration as the server completes it."""
    config = _DEFAULTS | request
    for name in ("first_seq", "description"):
        if not config.get(name):
            config.pop(name, None)
    for name in ("max_msgs", "max_bytes", "max_msg_size", "max_msgs_per_subject"):
        config[name] = config[name] or -1
    if config["max_age"]:
        window = min(config["duplicate_window"], config["max_age"])
        config["duplicate_window"] = window
    return config


def answer(server: Server, subject: str, payload: bytes, origin: Origin) -> None:
    """Answer a request of the API, or leave that to another server."""
    name, _, stream = subject.removeprefix(_PREFIX).rpartition(".")
    function = _REQUESTS.get(name)
    if function is None:
        return
    try:
        request = json.loads(payload) if payload else {}
    except ValueError:
        request = None
    if not isinstance(request, dict):
        request = {}
    if stream == server.cluster.stream:
        function(server, request, origin)
    elif server is server.cluster.meta_leader():
        _refuse(server, origin, _KINDS[name], NO_STREAM)


def _refuse(server: Server, origin: Origin, kind: str, refusal: Refusal) -> None:
    members: dict[str, Any] = {"error": refusal.document}
    if kind == "stream_info":
        members |= {"total": 0, "offset": 0, "limit": 0}
    server.reply(origin, b"", api_answer(kind, **members))


# -- STREAM.INFO -----------------------------------------------------------------------


def _info(server: Server, request: dict[str, Any], origin: Origin) -> None:
    """jsStreamInfoRequest: "leaderless" is looked at first, `leader` filled in later.

    So a follower's answer slips through at the end of an election (proven with 2.15.1
    and 2.12.8); a leaderless server answers for as long as there is no leader.
    """
    replica = server.replica
    if replica is None:
        if server.cluster.assignment is None and server is server.cluster.meta_leader():
            _refuse(server, origin, "stream_info", NO_STREAM)
        return
    if replica.is_leader:
        _tell_info(server, request, origin)
    elif replica.is_leaderless:
        rng = server.cluster.rng
        if rng.random() < SLIP_CHANCE:
            seconds = rng.uniform(*SLIP_SECONDS)
            server.after(seconds, _tell_info, server, request, origin)
        else:
            _tell_info(server, request, origin)
    elif server.cluster.trouble.slips():
        _tell_info(server, request, origin)


def _tell_info(server: Server, request: dict[str, Any], origin: Origin) -> None:
    replica = server.replica
    if replica is None:
        return
    details = bool(request.get("subjects_filter"))
    members = describe(server, details=details)
    if not replica.is_leader:
        server.say("answers STREAM.INFO, though it does not lead")
    total = members["state"].get("num_subjects", 0) if details else 0
    limit = 100_000 if total else 0
    server.reply(
        origin,
        b"",
        api_answer("stream_info", total=total, offset=0, limit=limit, **members),
    )


def describe(server: Server, *, details: bool = False) -> dict[str, Any]:
    """Give what STREAM.INFO and STREAM.CREATE say of the stream."""
    replica = server.replica
    assert replica is not None
    return {
        "config": replica.assignment.config,
        "created": rfc3339(replica.assignment.created_ns),
        "state": replica.store.state(details=details),
        "cluster": replica.cluster_info(),
        "ts": rfc3339(server.clock_ns()),
    }


# -- Reading ---------------------------------------------------------------------------


def _get(server: Server, request: dict[str, Any], origin: Origin) -> None:
    """jsMsgGetRequest: only the leader answers, or each that knows there is none."""
    replica = server.replica
    if replica is None:
        if server.cluster.assignment is None and server is server.cluster.meta_leader():
            _refuse(server, origin, "stream_msg_get", NO_STREAM)
        return
    if replica.is_leaderless:
        _refuse(server, origin, "stream_msg_get", UNAVAILABLE)
        return
    if not replica.is_leader:
        return
    message: StoredMessage | None = None
    if "start_time" in request:
        sequence = replica.store.since(nanoseconds(request["start_time"]))
        message = replica.store.get(sequence)
    elif request:
        message = replica.store.wanted(request)
    else:
        _refuse(server, origin, "stream_msg_get", BAD_REQUEST)
        return
    if message is None:
        _refuse(server, origin, "stream_msg_get", NO_MESSAGE)
        return
    document: dict[str, Any] = {"subject": message.subject, "seq": message.sequence}
    if message.block:
        document["hdrs"] = base64.b64encode(message.block).decode()
    document["data"] = base64.b64encode(message.body).decode()
    document["time"] = rfc3339(message.time_ns)
    server.reply(origin, b"", api_answer("stream_msg_get", message=document))


def answer_direct(server: Server, payload: bytes, origin: Origin) -> None:
    """Answer a direct get from what this replica holds, leader or not."""
    replica = server.replica
    if replica is None:
        return  # its stream is gone and the one who asked did not know yet
    try:
        request = json.loads(payload) if payload else {}
    except ValueError:
        server.reply(origin, status_block("408 Malformed Request"), b"")
        return
    if not any(map(request.get, ("seq", "last_by_subj", "multi_last"))):
        server.reply(origin, status_block("408 Empty Request"), b"")
        return
    name, store = str(replica.assignment.config["name"]), replica.store
    trouble, rng = server.cluster.trouble, server.cluster.rng
    if trouble.mirror is not None and rng.random() < ITS_SHARE:
        trouble.catch_up()
        name, store = trouble.mirror_name, trouble.mirror
    seconds = trouble.late_pages_seconds
    for block, data in store.direct(name, request, server.cluster.version):
        if seconds:
            server.after(seconds, reply_late, server, origin, block, data)
        else:
            server.reply(origin, block, data)


# -- Changing --------------------------------------------------------------------------


def _create(server: Server, request: dict[str, Any], origin: Origin) -> None:
    cluster = server.cluster
    if server is not cluster.meta_leader():
        return
    assignment = cluster.assignment
    config = full_config(request)
    if not cluster.allows_atomic:
        config.pop("allow_atomic", None)
    if assignment is None:
        cluster.assign(config, origin=origin)
    elif assignment.config == config:
        _tell_created(server, origin)
    else:
        _refuse(server, origin, "stream_create", NAME_IN_USE)


def _tell_created(server: Server, origin: Origin) -> None:
    replica = server.cluster.leader_replica()
    if replica is not None:
        members = describe(replica.server)
        members.pop("cluster", None)
        server.reply(
            origin, b"", api_answer("stream_create", **members, did_create=True)
        )


def tell_created(server: Server, origin: Origin) -> None:
    """Answer the request that made the stream, as its first leader."""
    members = describe(server)
    if not isinstance(server.replica, Replica):
        members.pop("cluster")
    server.reply(origin, b"", api_answer("stream_create", **members, did_create=True))


def _delete(server: Server, _: dict[str, Any], origin: Origin) -> None:
    cluster = server.cluster
    if server is not cluster.meta_leader():
        return
    if cluster.assignment is None:
        _refuse(server, origin, "stream_delete", NO_STREAM)
    else:
        cluster.unassign()
        done = api_answer("stream_delete", success=True)
        seconds = DELETE_SECONDS if len(cluster.servers) > 1 else 0.0
        server.after(seconds, server.reply, origin, b"", done)


def _purge(server: Server, request: dict[str, Any], origin: Origin) -> None:
    replica = server.replica
    if replica is not None and replica.is_leader:
        below = request.get("seq")
        replica.change(Change(partial(_purge_store, below), _tell_purged, origin))


def _purge_store(below: int | None, store: Store) -> int:
    return store.purge(store.last + 1 if below is None else below)


def _tell_purged(count: int) -> bytes:
    return api_answer("stream_purge", success=True, purged=count)


def _remove(server: Server, request: dict[str, Any], origin: Origin) -> None:
    replica = server.replica
    if replica is not None and replica.is_leader:
        sequence = request.get("seq", 0)
        replica.change(Change(partial(_remove_from, sequence), _tell_removed, origin))


def _remove_from(sequence: int, store: Store) -> int:
    return int(store.remove(sequence))


def _tell_removed(found: int) -> bytes:
    return api_answer("stream_msg_delete", success=bool(found))


def _step_down(server: Server, _: dict[str, Any], origin: Origin) -> None:
    replica = server.replica
    if isinstance(replica, Replica) and replica.is_leader:
        replica.raft.step_down()
        server.reply(origin, b"", api_answer("stream_leader_stepdown", success=True))


_REQUESTS = {
    "STREAM.INFO": _info,
    "STREAM.MSG.GET": _get,
    "STREAM.CREATE": _create,
    "STREAM.DELETE": _delete,
    "STREAM.PURGE": _purge,
    "STREAM.MSG.DELETE": _remove,
    "STREAM.LEADER.STEPDOWN": _step_down,
}
_KINDS = {
    "STREAM.INFO": "stream_info",
    "STREAM.MSG.GET": "stream_msg_get",
    "STREAM.CREATE": "stream_create",
    "STREAM.DELETE": "stream_delete",
    "STREAM.PURGE": "stream_purge",
    "STREAM.MSG.DELETE": "stream_msg_delete",
    "STREAM.LEADER.STEPDOWN": "stream_leader_stepdown",
}
