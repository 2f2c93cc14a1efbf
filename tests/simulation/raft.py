# SPDX-License-Identifier: Apache-2.0
"""The replicated log beneath a stream of three replicas, as server/raft.go keeps it.

Terms, votes, entries, commitment: each by messages, so that what a leader of the past
believes, and what becomes of its proposals, is not drawn but follows. Its times are
those of the server. It has no snapshots: a log of some thousand entries is kept whole.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

if TYPE_CHECKING:
    from .server import Server

HEARTBEAT_SECONDS: Final = 1.0  # hbIntervalDefault
ELECTION_SECONDS: Final = (4.0, 9.0)  # min-, maxElectionTimeoutDefault
LOST_QUORUM_SECONDS: Final = 10.0  # lostQuorumIntervalDefault, and its check's interval
HEALTHY_SECONDS: Final = 3.0  # StepDown: whom it may hand over to
CAMPAIGN_SECONDS: Final = (0.001, 0.1)
NEVER: Final = float("inf")


class Entry(NamedTuple):
    """One entry of the log: `what` is for the stream, None for the raft's own."""

    term: int
    what: Any


class Machine(Protocol):
    """What the entries are applied to."""

    def apply(self, entry: Entry, index: int) -> None:
        """Take a committed entry."""

    def committed(self, log: list[Entry], index: int) -> None:
        """Hear, from the leader, how far the log is committed."""

    def lead(self) -> None:
        """Begin to lead: all that was committed before is applied."""

    def follow(self) -> None:
        """Lead no more."""


class Raft:
    """One server's part in the log of one stream."""

    def __init__(self, server: Server, peers: list[Server], epoch: int) -> None:
        self.server = server
        self.peers = [peer for peer in peers if peer is not server]
        self.epoch = epoch
        self.machine: Machine
        # What a restart keeps:
        self.log: list[Entry] = []
        self.term = 0
        self.vote: Server | None = None
        self.applied = 0
        self.reset()

    def reset(self) -> None:
        """Forget what a restart forgets."""
        self.leader: Server | None = None
        self.role = "follower"
        self.serves = False  # leads, and has applied all that its log held before
        self.had_leader = False
        self.started_at = self.server.cluster.now()
        self.commit = self.applied
        self.heard: dict[Server, float] = {}
        self.holds_apply = 0
        self._next: dict[Server, int] = {}
        self._match: dict[Server, int] = {}
        self._votes: list[Server] = []
        self._serves_from = 0
        self._election_at = 0.0
        self._checks_at = NEVER
        self._check = getattr(self, "_check", 0) + 1

    @property
    def last(self) -> int:
        """The index of the last entry."""
        return len(self.log)

    @property
    def is_leader(self) -> bool:
        """Tell whether it leads, in its own belief."""
        return self.role == "leader"

    def start(self, *, campaign_seconds: float | None = None) -> None:
        """Take part; the one that the group prefers soon asks for votes."""
        self._await_election(campaign_seconds)

    # -- Elections ---------------------------------------------------------------------

    def _await_election(self, seconds: float | None = None) -> None:
        """Set when to ask for votes; whatever a leader sends puts it off."""
        cluster = self.server.cluster
        if seconds is None:
            seconds = cluster.rng.uniform(*ELECTION_SECONDS)
        self._election_at = cluster.now() + seconds
        if self._election_at < self._checks_at:
            self._arm(seconds)

    def _arm(self, seconds: float) -> None:
        self._check += 1
        self._checks_at = self.server.cluster.now() + seconds
        self.server.after(seconds, self._check_election, self._check, self.epoch)

    def _check_election(self, check: int, epoch: int) -> None:
        if not self._is_mine(epoch) or check != self._check:
            return
        self._checks_at = NEVER
        if self.role == "leader":
            return
        left = self._election_at - self.server.cluster.now()
        if left > 0.0:
            self._arm(left)
        else:
            self.campaign()

    def _is_mine(self, epoch: int) -> bool:
        replica = self.server.replica
        return replica is not None and replica.epoch == epoch == self.epoch

    def campaign(self) -> None:
        """Ask for votes in a new term."""
        self.term += 1
        self.vote = self.server
        self.role = "candidate"
        self.leader = None
        self._votes = [self.server]
        self._await_election()
        last_term = self.log[-1].term if self.log else 0
        for peer in self.peers:
            self._tell(peer, "asked_to_vote", self.term, self.last, last_term)

    def asked_to_vote(self, peer: Server, term: int, last: int, last_term: int) -> None:
        """Vote, once a term, for a log that is not behind."""
        if term > self.term:
            self._follow(term, None)
        own_term = self.log[-1].term if self.log else 0
        grant = (
            term == self.term
            and self.vote in (None, peer)
            and (last_term, last) >= (own_term, self.last)
        )
        if grant:
            self.vote = peer
            self._await_election()
        self._tell(peer, "voted", self.term, grant)

    def voted(self, peer: Server, term: int, grant: bool) -> None:
        """Count a vote."""
        if term > self.term:
            self._follow(term, None)
        elif grant and self.role == "candidate" and term == self.term:
            self._votes.append(peer)
            if len(self._votes) * 2 > len(self.peers) + 1:
                self._lead()

    def _lead(self) -> None:
        now = self.server.cluster.now()
        self.role, self.leader, self.had_leader = "leader", self.server, True
        self._next = dict.fromkeys(self.peers, self.last)
        self._match = dict.fromkeys(self.peers, 0)
        self.heard = {peer: self.heard.get(peer, now) for peer in self.peers}
        self._serves_from = self.last + 1
        self.server.say("leads, term %d", self.term)
        self.propose(None)
        self.server.after(HEARTBEAT_SECONDS, self._beat, self.term, self.epoch)
        self.server.after(
            LOST_QUORUM_SECONDS, self._check_quorum, self.term, self.epoch
        )

    def _follow(self, term: int, leader: Server | None) -> None:
        """Follow somebody, or nobody yet."""
        if term > self.term:
            self.term, self.vote = term, None
        led, self.role = self.role == "leader", "follower"
        self.leader = leader
        if led:
            self.serves = False
            self.machine.follow()
        self._await_election()

    def step_down(self, *, hand_over: bool = True) -> None:
        """Lead no more; what is proposed and not committed is left to its fate."""
        if self.role != "leader":
            return
        now = self.server.cluster.now()
        healthy = [
            peer for peer in self.peers if now - self.heard[peer] < HEALTHY_SECONDS
        ]
        self.server.say("steps down")
        term = self.term
        self._follow(term, None)
        if hand_over and healthy:
            self._tell(self.server.cluster.rng.choice(healthy), "succeed", term)

    def succeed(self, _: Server, term: int) -> None:
        """Take over (EntryLeaderTransfer)."""
        if term == self.term:
            self.leader = None
            self._await_election(self.server.cluster.rng.uniform(*CAMPAIGN_SECONDS))

    def _check_quorum(self, term: int, epoch: int) -> None:
        if not self._is_mine(epoch) or self.role != "leader" or term != self.term:
            return
        now = self.server.cluster.now()
        live = [
            peer for peer in self.peers if now - self.heard[peer] < LOST_QUORUM_SECONDS
        ]
        if (len(live) + 1) * 2 <= len(self.peers) + 1:
            self.server.say("lost its quorum")
            self._follow(self.term, None)
        else:
            self.server.after(LOST_QUORUM_SECONDS, self._check_quorum, term, epoch)

    # -- Entries -----------------------------------------------------------------------

    def propose(self, what: Any) -> None:
        """Append an entry, as the leader, and send it."""
        self.log.append(Entry(self.term, what))
        for peer in self.peers:
            self._send_entries(peer)

    def _send_entries(self, peer: Server) -> None:
        before = self._next[peer]
        entries = self.log[before:]
        self._next[peer] = self.last
        term_before = self.log[before - 1].term if before else 0
        self._tell(peer, "append", self.term, before, term_before, entries, self.commit)

    def _beat(self, term: int, epoch: int) -> None:
        if self._is_mine(epoch) and self.role == "leader" and term == self.term:
            for peer in self.peers:
                self._send_entries(peer)
            self.server.after(HEARTBEAT_SECONDS, self._beat, term, epoch)

    def append(  # noqa: PLR0917 - the fields of an AppendEntry
        self,
        peer: Server,
        term: int,
        before: int,
        term_before: int,
        entries: list[Entry],
        commit: int,
    ) -> None:
        """Take entries of the leader, and how far it has committed."""
        if term < self.term:
            self._tell(peer, "appended", self.term, False, 0)
            return
        if term > self.term or self.role != "follower" or self.leader is not peer:
            self._follow(term, peer)
        self.had_leader = True
        cluster = self.server.cluster
        self.heard[peer] = cluster.now()
        self._election_at = cluster.now() + cluster.rng.uniform(*ELECTION_SECONDS)
        if before > self.last or (before and self.log[before - 1].term != term_before):
            known = min(self.last, before - 1)
            self._tell(peer, "appended", self.term, False, known)
            return
        for number, entry in enumerate(entries, before):
            if number < self.last and self.log[number].term != entry.term:
                assert number >= self.commit, "a committed entry is overwritten"
                del self.log[number:]
            if number >= self.last:
                self.log.append(entry)
        reached = before + len(entries)
        self._commit_to(min(commit, reached))
        self._tell(peer, "appended", self.term, True, reached)

    def appended(self, peer: Server, term: int, ok: bool, index: int) -> None:
        """Hear, as the leader, how far a follower's log goes."""
        if term > self.term:
            self._follow(term, None)
            return
        if self.role != "leader" or term != self.term:
            return
        self.heard[peer] = self.server.cluster.now()
        if not ok:
            self._next[peer] = max(index, 0)
            self._send_entries(peer)
            return
        if index <= self._match[peer]:
            return
        self._match[peer] = index
        reached = sorted([*self._match.values(), self.last])
        majority = reached[(len(reached) - 1) // 2]
        if majority > self.commit and self.log[majority - 1].term == self.term:
            self.machine.committed(self.log, majority)
            self._commit_to(majority)
            if self.role == "leader":
                for each in self.peers:
                    self._tell(each, "hear_commit", self.term, majority)

    def hear_commit(self, _: Server, term: int, reached: int) -> None:
        """Hear, between two heartbeats, what is committed.

        An entry of the leader's own term at that index is the leader's, and so is all
        before it.
        """
        if (
            term == self.term
            and self.role == "follower"
            and reached <= self.last
            and self.log[reached - 1].term == term
        ):
            self._commit_to(reached)

    def _commit_to(self, index: int) -> None:
        self.commit = max(self.commit, index)
        self.apply()

    def apply(self) -> None:
        """Apply what is committed, unless that is held up."""
        while self.applied < self.commit and not self.holds_apply:
            self.applied += 1
            self.machine.apply(self.log[self.applied - 1], self.applied)
        if self.role == "leader" and not self.serves:
            self.serves = self.applied >= self._serves_from
            if self.serves:
                self.machine.lead()

    def lag(self, peer: Server) -> int:
        """Say, as the leader, how many entries a follower is behind."""
        return self.last - self._match.get(peer, 0)

    def _tell(self, peer: Server, what: str, *arguments: Any) -> None:
        self.server.tell(peer, self.epoch, what, *arguments)
