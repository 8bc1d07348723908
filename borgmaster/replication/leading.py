"""Owns what a leader sends: to each follower what its log lacks, in batches, or the snapshot, or a heartbeat.

PySyncObj's own loop slices the whole tail for each batch, breaks large entries and spins while a snapshot is made
(raft.md §3, §5).
"""

from typing import Final

from borgmaster.replication.engine import Engine
from borgmaster.replication.journal import LogEntry
from borgmaster.replication.network import Links
from borgmaster.replication.transfer import Sender
from borgmaster.replication.wire import Append, SnapshotPart

BATCH_BYTES: Final = 1 << 20  # of one Append
BATCH_ENTRIES: Final = 5000
BACKLOG_BYTES_MAX: Final = 32 << 20  # a slower follower gets heartbeats only


class Broadcaster:
    """One broadcast of a leader: every connected follower gets at least one message of its round."""

    def __init__(self, engine: Engine, sender: Sender, network: Links) -> None:
        self._engine = engine
        self._sender = sender
        self._network = network

    def broadcast(self, round: int) -> None:
        """Send each follower what it lacks."""
        first = self._engine.journal[0][1]
        for name in self._engine.others():
            if not self._network.connected(name):
                continue
            if self._engine.next_index(name) <= first:
                self._send_snapshot(name, round)
            else:
                self._send_entries(name, round)

    def _send_entries(self, name: str, round: int) -> None:
        engine, journal = self._engine, self._engine.journal
        while True:
            next_index = engine.next_index(name)
            batch = self._batch_from(next_index - journal[0][1])
            if batch and self._network.backlog_bytes(name) > BACKLOG_BYTES_MAX:
                batch = []
            prev_term = journal.term_at(next_index - 1)
            assert prev_term is not None, "next_index lies behind the first entry"
            if batch:
                engine.set_next_index(name, batch[-1][1] + 1)
            message = Append(
                engine.term(), engine.commit_index(), round, next_index - 1, prev_term, batch
            )
            sent = engine.post(name, message)
            if not sent or not batch or engine.next_index(name) > journal[-1][1]:
                return

    def _batch_from(self, position: int) -> list[LogEntry]:
        batch = []
        size = 0
        for entry in self._engine.journal[position : position + BATCH_ENTRIES]:
            batch.append(entry)
            size += len(entry[0])
            if size >= BATCH_BYTES:
                break
        return batch

    def _send_snapshot(self, name: str, round: int) -> None:
        """What the socket takes; the entries behind the snapshot may follow at once."""
        term, commit = self._engine.term(), self._engine.commit_index()
        sent = False
        for part in self._sender.parts(name, lambda: self._network.backlog_bytes(name)):
            sent = self._engine.post(name, SnapshotPart(term, commit, round, part))
            if not sent:
                return
            if part.last:
                self._engine.set_next_index(name, part.index + 1)
        if not sent:
            self._engine.post(name, SnapshotPart(term, commit, round, None))
