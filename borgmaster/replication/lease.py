"""Owns the leader's lease: until when no other replica can lead, and the proof of leadership that reads wait for.

Every broadcast of the leader has a round number, followers echo it. The rounds that a majority has echoed prove that
this replica led when the round was sent. For ``duration_ms`` from then each of that majority refuses to vote (raft.md §2),
so nobody else can lead; a tenth is kept back for clocks that run at different rates.
"""

from collections import deque
from typing import Final

FOREVER_MS: Final = 1 << 62
_DRIFT: Final = 0.1


class Lease:
    """Rounds sent and echoed, by one leader in one term."""

    def __init__(self, others: int, election_min_ms: int) -> None:
        self._needed = (others + 1) // 2  # echoes beside the leader's own
        self._duration_ms = int(election_min_ms * (1 - _DRIFT))
        self._sent: deque[tuple[int, int]] = deque()  # (round, ms), oldest first
        self._echoed: dict[str, int] = {}  # newest round by replica
        self._round = 0

    @property
    def round(self) -> int:
        """The newest round sent."""
        return self._round

    def reset(self) -> None:
        """Start anew in another term: what was echoed before proves nothing."""
        self._echoed.clear()
        self._sent.clear()

    def begin(self, now_ms: int) -> int:
        """Number a broadcast that is about to leave."""
        self._round += 1
        self._sent.append((self._round, now_ms))
        while self._sent and self._sent[0][1] < now_ms - self._duration_ms:
            self._sent.popleft()
        return self._round

    def echo(self, name: str, round: int) -> None:
        """A follower has answered a broadcast of this round."""
        if self._echoed.get(name, 0) < round <= self._round:
            self._echoed[name] = round

    def confirmed(self) -> int:
        """The newest round that a majority has seen from this leader; 0 for none."""
        if self._needed == 0:
            return self._round
        newest = sorted(self._echoed.values(), reverse=True)
        return newest[self._needed - 1] if len(newest) >= self._needed else 0

    def until_ms(self) -> int:
        """Until when this replica certainly leads, if it leads; 0 when it cannot know."""
        if self._needed == 0:
            return FOREVER_MS
        confirmed = self.confirmed()
        for round, sent_ms in self._sent:
            if round == confirmed:
                return sent_ms + self._duration_ms
        return 0
