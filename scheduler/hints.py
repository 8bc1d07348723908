"""Owns what would make a task fit. Every hint is checked against the columns before it is given."""

from typing import Final

import numpy as np
from borgcell.priority import BAND_RANKS
from borgcell.resources import DIMENSIONS, format_quantity
from borgcell.specs import RAM_BYTES_MIN, Constraint, Op
from msgspec import Struct
from numpy.typing import NDArray

from scheduler.candidates import Candidates
from scheduler.cell import TOP_RANK
from scheduler.scratch import Ask, JobSpread, Mask, Scratch

HINTS_MAX: Final = 6
_RUNTIME_PREFIX: Final = "runtime."
_LEAST: Final = {"cpu_milli": 1, "ram_bytes": RAM_BYTES_MIN, "disk_bytes": 0, "ports": 0}


class Situation(Struct, frozen=True):
    """All checks of one class over all slots. Masks are True where the check passes."""

    scratch: Scratch
    ask: Ask
    spread: JobSpread
    known: Mask
    takes: Mask
    hard: tuple[tuple[Constraint, Mask], ...]  # in the order of the shape
    could_free: NDArray[np.int64]  # int64[dimensions, slots] once all lower bands are evicted
    enough: dict[str, Mask]  # wanted dimensions, in the order of DIMENSIONS
    limits: dict[str, Mask]  # max_per_machine, max_per_rack; only those that are set

    @classmethod
    def of(cls, candidates: Candidates) -> "Situation":
        """The situation of a class as the pass stands."""
        scratch, ask, spread = candidates.scratch, candidates.ask, candidates.spread
        cell, size = scratch.cell, scratch.size
        could_free = scratch.available[ask.rank]
        return cls(
            scratch=scratch,
            ask=ask,
            spread=spread,
            known=cell.known[:size],
            takes=cell.takes[:size],
            hard=tuple((one, cell.mask(one)) for one in ask.hard),
            could_free=could_free,
            enough={
                dimension: could_free[row] >= ask.limit[row]
                for row, dimension in enumerate(DIMENSIONS)
                if ask.limit[row]
            },
            limits=scratch.limit_masks(ask, spread),
        )

    def meets_hard(self, *, but: Constraint | None = None) -> Mask:
        """Where all hard constraints hold, one left out on request."""
        return self._all([mask for one, mask in self.hard if one != but])

    def fits(self, *, but: str = "") -> Mask:
        """Where there is, or could be made, room in all dimensions, one left out on request."""
        return self._all([mask for dimension, mask in self.enough.items() if dimension != but])

    def within_limits(self, *, but: str = "") -> Mask:
        """Where max_per_machine and max_per_rack allow one more task, one left out on request."""
        return self._all([mask for limit, mask in self.limits.items() if limit != but])

    def lack_share(self) -> NDArray[np.float64]:
        """How much is missing, as shares of what is wanted, summed over the dimensions."""
        lack = np.zeros(self.scratch.size, dtype=np.float64)
        for row, wanted in enumerate(self.ask.limit):
            if wanted:
                lack += np.maximum(wanted - self.could_free[row], 0) / wanted
        return lack

    def _all(self, masks: list[Mask]) -> Mask:
        if not masks:
            return np.ones(self.scratch.size, dtype=np.bool_)
        together: Mask = np.logical_and.reduce(masks)
        return together


def hints(situation: Situation) -> tuple[str, ...]:
    """What would make the task fit, nearest at hand first; at most ``HINTS_MAX``."""
    found = [
        *_wait(situation),
        *_raise_limits(situation),
        *_ask_for_less(situation),
        *_relax_constraints(situation),
        *_add_machines(situation),
        *_raise_band(situation),
    ]
    return tuple(found[:HINTS_MAX])


def _wait(situation: Situation) -> list[str]:
    would_fit = (
        situation.known
        & ~situation.takes
        & situation.meets_hard()
        & situation.fits()
        & situation.within_limits()
    )
    rows = situation.scratch.cell.rows
    reasons = [rows[slot].reason for slot in np.flatnonzero(would_fit).tolist()]
    down = sum(reason == "down" for reason in reasons)
    draining = sum(reason == "draining" for reason in reasons)
    not_ready = len(reasons) - down - draining
    found = []
    if down:
        found.append(f"wait: {_machines(down)} that could take it {_are(down)} down")
    if not_ready:
        found.append(f"wait: {_machines(not_ready)} that could take it {_are(not_ready)} not ready")
    if draining:
        found.append(f"undrain: {_machines(draining)} that could take it {_are(draining)} draining")
    return found


def _raise_limits(situation: Situation) -> list[str]:
    base = _qualified(situation) & situation.fits()
    found = []
    for limit in situation.limits:
        count = int((base & situation.within_limits(but=limit)).sum())
        if count:
            found.append(f"raise {limit}: {_machines(count)} {_have(count)} room for one more")
    return found


def _ask_for_less(situation: Situation) -> list[str]:
    """The largest request that would fit, for each dimension alone; else for the nearest machine together."""
    base = _qualified(situation) & situation.within_limits()
    found = []
    for row, dimension in enumerate(DIMENSIONS):
        if dimension not in situation.enough:
            continue
        free = situation.could_free[row][base & situation.fits(but=dimension)]
        most = floor_quantity(dimension, int(free.max())) if len(free) else -1
        if _LEAST[dimension] <= most < situation.ask.limit[row]:
            found.append(f"ask for at most {format_quantity(dimension, most)} per task")
    return found or _ask_for_less_of_all(situation, base)


def _ask_for_less_of_all(situation: Situation, base: Mask) -> list[str]:
    slots = np.flatnonzero(base)
    if not len(slots):
        return []
    slot = int(slots[np.argmin(situation.lack_share()[slots])])
    parts = []
    for row, dimension in enumerate(DIMENSIONS):
        free = floor_quantity(dimension, int(situation.could_free[row, slot]))
        if dimension in situation.enough and free < situation.ask.limit[row]:
            if free < _LEAST[dimension]:
                return []
            parts.append(format_quantity(dimension, free))
    return [f"ask for at most {' and '.join(parts)} per task"] if parts else []


def _relax_constraints(situation: Situation) -> list[str]:
    base = situation.known & situation.takes & situation.fits() & situation.within_limits()
    found = []
    for constraint, _ in situation.hard:
        count = int((base & situation.meets_hard(but=constraint)).sum())
        if count and not constraint.attribute.startswith(_RUNTIME_PREFIX):
            found.append(f"drop {constraint}: {_machines(count)} would fit then")
    return found


def _add_machines(situation: Situation) -> list[str]:
    if not situation.known.any():
        return ["add a machine"]
    nowhere = [one for one, mask in situation.hard if not (mask & situation.known).any()]
    if nowhere:
        return [f"add a machine {' and '.join(map(_demanded, nowhere))}"]
    if not (situation.known & situation.meets_hard()).any():
        return [
            "add a machine that meets all constraints at once: each is met, but on different ones"
        ]
    return _add_larger_machine(situation)


def _add_larger_machine(situation: Situation) -> list[str]:
    qualified = situation.known & situation.meets_hard()
    capacity = situation.scratch.cell.capacity[:, : situation.scratch.size]
    found = []
    for row, dimension in enumerate(DIMENSIONS):
        wanted, largest = situation.ask.limit[row], int(capacity[row][qualified].max())
        if wanted > largest:
            found.append(
                f"add a machine with {format_quantity(dimension, wanted)}: the largest that qualifies "
                f"has {format_quantity(dimension, largest)}"
            )
    return found or ["add a machine, or free room on those that qualify"]


def _raise_band(situation: Situation) -> list[str]:
    base = _qualified(situation) & situation.within_limits()
    scratch, ask = situation.scratch, situation.ask
    bands = {rank: band for band, rank in BAND_RANKS.items()}
    for rank in range(ask.rank + 1, TOP_RANK):  # monitoring is not for asking
        count = int((base & scratch.fits(ask, rank)).sum())
        if count:
            lower = " and ".join(bands[one].replace("_", " ") for one in range(ask.rank, rank))
            return [
                f"a task of the {bands[rank]} band could evict {lower} tasks on {_machines(count)}"
            ]
    return []


def floor_quantity(dimension: str, amount: int) -> int:
    """The largest quantity up to ``amount`` that ``format_quantity`` shows without rounding up."""
    if dimension == "ports" or amount <= 0:
        return amount
    if dimension == "cpu_milli":
        step = int("1" + "0" * max(len(str(amount)) - 6, 0))  # six significant digits are shown
        return amount // step * step
    unit = next((size for size in (1 << 40, 1 << 30, 1 << 20, 1 << 10) if amount >= size), 1)
    return -(-(amount * 100 // unit) * unit // 100)


def _qualified(situation: Situation) -> Mask:
    return situation.known & situation.takes & situation.meets_hard()


def _demanded(constraint: Constraint) -> str:
    if constraint.op is Op.PRESENT and constraint.attribute.startswith(_RUNTIME_PREFIX):
        return f"with the {constraint.attribute.removeprefix(_RUNTIME_PREFIX)} runtime"
    match constraint.op:
        case Op.PRESENT:
            return f"with {constraint.attribute}"
        case Op.NOT_PRESENT:
            return f"without {constraint.attribute}"
        case _:
            return f"with {constraint}"


def _machines(count: int) -> str:
    return f"{count} machine{'s' * (count != 1)}"


def _are(count: int) -> str:
    return "is" if count == 1 else "are"


def _have(count: int) -> str:
    return "has" if count == 1 else "have"
