# SPDX-License-Identifier: Apache-2.0
"""What a server does for a stream that it alone holds (R1).

The order of checks is that of processJetStreamMsg in server/stream.go, by version.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from .links import Pipe
from .messages import (
    OTHER_STREAM,
    TOO_LARGE,
    WRITE_FAILED,
    Publish,
    Refusal,
    StoredMessage,
    acknowledgement,
    refusal_of_publish,
    wrong_last,
)
from .replica import DIRECT, LEADER, Assignment, Change
from .staged import Staged, check_batch

if TYPE_CHECKING:
    from .server import Server

DISK_SECONDS: Final = (0.00005, 0.0004)


class Alone:
    """The only replica of a stream: what it acknowledges is in its file."""

    def __init__(self, server: Server, assignment: Assignment) -> None:
        self.server = server
        self.assignment = assignment
        self.epoch = assignment.epoch
        self.store = assignment.store()
        self.disk = Pipe(server.cluster, DISK_SECONDS)
        self.pipes = [self.disk]
        self._name = str(assignment.config["name"])
        self._version = server.cluster.version
        self._staged = Staged(self.store.config)
        self._rest: list[Publish] = []  # of a batch that was written in part

    is_leader = True
    is_leaderless = False

    def start(self) -> None:
        """Begin to listen."""
        self.store.purge(self.server.cluster.expired)
        self.server.announce(LEADER, listens=True)
        self.server.announce(DIRECT, bool(self.store.config["allow_direct"]))
        self.server.cluster.created(self)

    def stop(self) -> None:
        """End: what is not in its file yet is lost, and was never acknowledged."""
        self.disk.lose()
        self._staged.clear()

    def restart(self) -> None:
        """Begin again from what the files hold.

        Where the last message is of a batch without its end, the rest follows
        (jetstream.go, "Restoring partial batch write").
        """
        rest, self._rest = self._rest, []
        last = self.store.get(self.store.last)
        if rest and last is not None and last.key == rest.pop(0).key:
            for publish in rest:
                self._append(publish)
        self.store.reload_ids(self.server.clock_ns())
        self.start()

    def expire(self, below: int) -> None:
        """Remove what has passed its age, by this server's own clock."""
        self.store.purge(below)

    def take(self, publish: Publish) -> None:
        """Queue a publish; one after the other is checked and stored."""
        self.disk.send(self._store, publish)

    def change(self, change: Change) -> None:
        """Queue a change of the stream."""
        self.disk.send(self._change, change)

    def _change(self, change: Change) -> None:
        answer = change.tell(change.make(self.store))
        self.server.reply(change.origin, b"", answer)

    def _store(self, publish: Publish) -> None:
        server = self.server
        if publish.batch is not None and self._version >= (2, 12):
            self._stage(publish)
            return
        result = self._check(publish)
        if isinstance(result, Refusal):
            server.say("refuses key %s: %s", publish.key, result.description)
            answer = refusal_of_publish(result, self._name)
        elif result is not None:
            server.say("acknowledges %d again, key %s", result, publish.key)
            answer = acknowledgement(self._name, result, self._version, duplicate=True)
        else:
            if server.cluster.trouble.writes_fail:
                self._fail(publish)
                return
            message = self._append(publish)
            answer = acknowledgement(self._name, message.sequence, self._version)
        server.reply(publish.origin, b"", answer)

    def _fail(self, publish: Publish) -> None:
        """Fail to write: the message may stand all the same.

        Before 2.14 the answer is 10077 with the error's own text, then there is none.
        """
        server = self.server
        if server.cluster.rng.random() < 0.5:
            self._append(publish)
        server.say("cannot write, key %s", publish.key)
        if self._version < (2, 14):
            answer = refusal_of_publish(WRITE_FAILED, self._name)
            server.reply(publish.origin, b"", answer)

    def _append(self, publish: Publish) -> StoredMessage:
        message = self.store.append(publish, self.server.clock_ns())
        self.server.cluster.store(self.epoch, message)
        self.server.say("stores %d, key %s", message.sequence, publish.key)
        return message

    # -- Atomic batches ----------------------------------------------------------------

    def _stage(self, publish: Publish) -> None:
        """Hold a part of a batch; store all where it is the last one."""
        server, trouble = self.server, self.server.cluster.trouble
        result: Refusal | list[Publish] | None = trouble.disk_refusal(server)
        if 0 <= self.store.config["max_msg_size"] < publish.size_bytes:
            result = result or TOO_LARGE
        result = result or self._staged.add(publish, server.cluster.now())
        if isinstance(result, list):
            result = self._store_batch(result)
        if isinstance(result, Refusal):
            server.say("refuses a batch, key %s: %s", publish.key, result.description)
            answer = refusal_of_publish(result, self._name)
            server.reply(publish.origin, b"", answer)
        elif not publish.commits:
            server.reply(publish.origin, b"", b"")

    def _store_batch(self, batch: list[Publish]) -> Refusal | None:
        server, trouble, store = self.server, self.server.cluster.trouble, self.store
        now_ns = server.clock_ns()
        refusal = check_batch(batch, store, store.last, now_ns, self._name)
        refusal = refusal or trouble.full or store.full_of(batch)
        if refusal is not None:
            return refusal
        count = len(batch)
        if trouble.writes_fail:
            count = server.cluster.rng.randrange(count + 1)
            self._rest = batch[count - 1 :] if count else []
        for publish in batch[:count]:
            self._append(publish)
        server.say("stores %d of a batch of %d", count, len(batch))
        if not trouble.writes_fail:
            answer = acknowledgement(self._name, store.last, self._version, batch=batch)
            server.reply(batch[-1].origin, b"", answer)
        elif self._version < (2, 14):
            self._rest = []
            return WRITE_FAILED
        return None

    def _check(self, publish: Publish) -> Refusal | int | None:
        """Give why it is not stored, or the sequence of its id, or None."""
        store, trouble = self.store, self.server.cluster.trouble
        is_large = 0 <= store.config["max_msg_size"] < publish.size_bytes
        if is_large and self._version >= (2, 15):
            return TOO_LARGE
        if publish.stream not in (None, self._name):
            return OTHER_STREAM
        known = None
        if publish.key is not None:
            known = store.known(publish.key, self.server.clock_ns())
        if known is not None and self._version < (2, 12):
            return known
        if publish.last is not None and publish.last != store.last:
            return wrong_last(store.last)
        if known is not None:
            return known
        if is_large:
            return TOO_LARGE
        refusal = trouble.disk_refusal(self.server) or trouble.full
        return refusal or store.full(publish)

    def cluster_info(self) -> dict[str, Any]:
        """Give what STREAM.INFO says of the cluster."""
        return {"leader": self.server.name}
