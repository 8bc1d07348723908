"""Owns when this replica may vote or stand: not while a leader may hold its lease, and not without a history.

PySyncObj alone lets any replica with a higher term depose a healthy leader (raft.md §2); with pre-votes and these
rules a replica that returns from a partition disturbs nobody, and the leader's lease means something.
"""

from borgmaster.replication.config import LogConfig
from borgmaster.replication.files import NewcomerMark
from borgmaster.replication.wire import PreVote, PreVoteRequest, VoteRequest

FRESH_LAST_INDEX = 1  # the log of a replica that was never in a term


class Voting:
    """What this replica has promised by listening, and the pre-votes it has collected."""

    def __init__(self, config: LogConfig, mark: NewcomerMark, now_ms: int) -> None:
        self._sticky_ms = config.election_min_ms
        self._majority = len(config.members) // 2 + 1
        self._alone = len(config.members) == 1
        self._mark = mark
        self._started_ms = now_ms
        self._heard_ms = -1
        self._asked = 0  # the term of the running pre-vote; 0: none
        self._granted: set[str] = set()

    def heard_leader(self, now_ms: int) -> None:
        """The leader has spoken: the promise not to vote begins anew."""
        self._heard_ms = now_ms
        self._asked = 0

    def bound(self, now_ms: int) -> bool:
        """Whether the promise still holds. Right after a start, too: it may have been given before."""
        if self._alone:
            return False
        latest = max(self._started_ms, self._heard_ms)
        return now_ms - latest < self._sticky_ms

    def may_vote(self, request: VoteRequest | PreVoteRequest) -> bool:
        """Whether this disk has enough history for this vote."""
        if self._mark.policy is None:
            return True
        return self._mark.policy == "bootstrap" and request.last_index == FRESH_LAST_INDEX

    def may_stand(self, last_index: int) -> bool:
        """Whether this disk has enough history to lead."""
        if self._mark.policy is None:
            return True
        return self._mark.policy == "bootstrap" and last_index == FRESH_LAST_INDEX

    def ask(self, term: int) -> None:
        """Begin to collect pre-votes for ``term``."""
        self._asked = term
        self._granted.clear()

    def count(self, name: str, answer: PreVote) -> None:
        """Take an answer."""
        if answer.granted and answer.asked == self._asked:
            self._granted.add(name)

    def won(self, term: int) -> bool:
        """Whether a majority would vote for this replica in ``term``."""
        return self._asked == term and len(self._granted) + 1 >= self._majority

    def done(self) -> None:
        """Forget the pre-vote."""
        self._asked = 0
