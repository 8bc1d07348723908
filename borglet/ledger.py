"""Owns the agent's records: what planned and finished actions change in them, and when they reach the disk."""

import asyncio
import logging
from collections.abc import Iterable

from borgcell.types import EndKind
from msgspec.structs import replace

from borglet.actions import Action, Conclude, Drop, Kill, Start, Terminate
from borglet.memory import Memory, StateDir, revived
from borglet.plan import KILL_RETRY_MS
from borglet.runtime.port import ContainerId
from borglet.values import Assignment, Desired, Ended, Record, Stop

log = logging.getLogger(__name__)


class Ledger:
    """Records by id, and the highest term seen. Changes are in memory at once and on disk after ``save``."""

    def __init__(self, state_dir: StateDir, memory: Memory, now_ms: int) -> None:
        self.records: dict[ContainerId, Record] = {
            record.id: revived(record, now_ms) for record in memory.records
        }
        self.term = memory.term
        self.trouble = ""  # why the last save failed
        self._state_dir = state_dir
        self._cell, self._machine = memory.cell, memory.machine
        self._changes = 0
        self._saved = 0
        self._saving = asyncio.Lock()

    def put(self, record: Record) -> None:
        """Set one record."""
        if self.records.get(record.id) != record:
            self.records[record.id] = record
            self._changes += 1

    def of(self, id: ContainerId) -> Record:
        """The record of an incarnation; an empty one if there is none."""
        return self.records.get(id) or Record(id)

    def remove(self, id: ContainerId) -> None:
        """Drop one record."""
        if self.records.pop(id, None) is not None:
            self._changes += 1

    def raise_term(self, term: int) -> None:
        """Remember a newer term."""
        assert term >= self.term, f"term {term} is older than {self.term}"
        if term > self.term:
            self.term = term
            self._changes += 1

    def conclude(self, id: ContainerId, ended: Ended) -> None:
        """Record an end; its spec is not needed any more."""
        record = replace(self.of(id), desired=None, ended=ended, retry_at_ms=None, retry_reason="")
        self.put(record)
        log.info(
            "task_ended",
            extra={
                "task": str(id.task),
                "incarnation": id.incarnation,
                "end": ended.kind.value,
                "exit_code": ended.exit_code,
                "detail": ended.detail,
            },
        )

    def adopt(self, ids: Iterable[ContainerId], wanted: dict[ContainerId, Desired]) -> None:
        """Make records of containers that were found without one."""
        for id in ids:
            if id not in self.records:
                self.put(Record(id, desired=wanted.get(id)))
                log.info(
                    "task_adopted", extra={"task": str(id.task), "incarnation": id.incarnation}
                )

    def take(self, assignment: Assignment) -> None:
        """Acknowledgements, and specs that changed in place (grace, health check, priority)."""
        for id in assignment.acknowledged:
            record = self.records.get(id)
            if record is not None and record.ended and not record.ended.acknowledged:
                self.put(replace(record, ended=replace(record.ended, acknowledged=True)))
        for desired in assignment.tasks:
            record = self.records.get(desired.id)
            if record is None or record.ended or desired.problem:
                continue
            wanted = replace(desired, stop=False)
            if record.desired != wanted:
                self.put(replace(record, desired=wanted))

    def plan(self, action: Action, now_ms: int) -> None:
        """What an action changes before it is carried out, so that a crash in between is understood later."""
        match action:
            case Terminate(id=id, kind=kind, detail=detail, grace_ms=grace_ms):
                record = self.of(id)
                stop = record.stop or Stop(kind, detail, grace_ms, now_ms + grace_ms)
                self.put(replace(record, stop=stop))
            case Kill(id=id):
                record = self.of(id)
                if record.stop is not None:
                    stop = replace(record.stop, kill_at_ms=now_ms + KILL_RETRY_MS)
                    self.put(replace(record, stop=stop))
            case Conclude(id=id, ended=ended):
                self.conclude(id, ended)
            case Start(desired=desired):
                record = self.of(desired.id)
                self.put(replace(record, desired=desired, retry_at_ms=None, retry_reason=""))
            case Drop(id=id):
                self.remove(id)
            case _:
                pass  # changes nothing here

    def unplan_start(self, id: ContainerId, now_ms: int, why: str) -> None:
        """A planned start was not tried after all."""
        self.put(replace(self.of(id), retry_at_ms=now_ms, retry_reason=why))

    def signalled(self, id: ContainerId) -> None:
        """SIGTERM was sent by this process."""
        record = self.records.get(id)
        if record is not None and record.stop is not None:
            self.put(replace(record, stop=replace(record.stop, signalled=True)))

    def start_failed(self, id: ContainerId, kind: EndKind, detail: str, at_ms: int) -> None:
        """A start that will not be tried again."""
        self.conclude(id, Ended(kind, -1, detail, at_ms))

    def give_up_results(self, now_ms: int | None) -> None:
        """Nobody will ask for the ends; with ``now_ms``, all graces are over too."""
        for record in list(self.records.values()):
            if record.ended and not record.ended.acknowledged:
                self.put(replace(record, ended=replace(record.ended, acknowledged=True)))
            elif record.stop and now_ms is not None and record.stop.kill_at_ms > now_ms:
                self.put(replace(record, stop=replace(record.stop, kill_at_ms=now_ms)))

    async def save(self) -> bool:
        """Everything changed before the call is on disk, or False (and ``trouble`` says why)."""
        changes = self._changes
        async with self._saving:
            if self._saved >= changes and not self.trouble:
                return True
            covered = self._changes
            memory = Memory(self._cell, self._machine, self.term, tuple(self.records.values()))
            try:
                await asyncio.to_thread(self._state_dir.save, memory)
            except OSError as error:
                trouble = (
                    f"cannot write the state directory {self._state_dir.path}: {error.strerror}"
                )
                if trouble != self.trouble:
                    log.error("memory_not_saved", extra={"detail": trouble})  # noqa: TRY400 - the text says all
                self.trouble = trouble
                return False
            if self.trouble:
                log.info("memory_saved_again", extra={"path": str(self._state_dir.path)})
            self._saved, self.trouble = covered, ""
            return True
