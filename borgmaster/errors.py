"""Owns the exceptions of the master: what the world did to us.

BorgmasterError                 retryable says whether the same call may work later
├── NotLeader                   this replica does not lead (leader: name of who does, or "")
├── QueueFull                   too much is waiting for the log
├── TooLarge                    one command is larger than an entry may be
├── OutcomeUnknown              leadership was lost or time ran out after the command left: it may be committed
└── StorageFailed               the journal or a snapshot cannot be written or read; the replica must stop
"""


class BorgmasterError(Exception):
    """Base of all."""

    retryable = True


class NotLeader(BorgmasterError):
    """The command never entered the log: ask the leader."""

    def __init__(self, leader: str) -> None:
        super().__init__(
            f"not the leader; {f'the leader is {leader}' if leader else 'no leader is known'}"
        )
        self.leader = leader


class QueueFull(BorgmasterError):
    """The command never entered the log: the queue is at its bound."""


class TooLarge(BorgmasterError):
    """The command never entered the log: it exceeds the size of an entry."""

    retryable = False


class OutcomeUnknown(BorgmasterError):
    """The command may or may not be committed; the same request id tells."""


class StorageFailed(BorgmasterError):
    """The disk refused or returned damaged data; the file and the offset are in the message."""

    retryable = False
