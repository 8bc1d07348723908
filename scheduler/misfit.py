"""Owns why a task fits nowhere: machines counted by their first failing check, and the nearest miss.

The order of the checks is part of the contract: not taking tasks, hard constraints in their order, cpu, ram,
disk, ports, max_per_machine, max_per_rack. Cheapest first, and what the user can least change first.
"""

from collections import Counter
from typing import Final

import numpy as np
from borgcell.resources import DIMENSIONS, Resources, format_quantity
from borgcell.specs import Constraint

from scheduler.candidates import Candidates
from scheduler.hints import Situation, hints
from scheduler.plan import Misfit, MisfitCount

REASON_OF_DIMENSION: Final = dict(zip(DIMENSIONS, ("cpu", "ram", "disk", "ports"), strict=True))
NOT_READY_DETAILS_MAX: Final = 5  # further ones are counted together
_NOT_READY_PREFIX: Final = "not ready"


def why_not(candidates: Candidates) -> Misfit:
    """The reason, for a class that fits nowhere even with evictions. Cost: checks x machines."""
    situation = Situation.of(candidates)
    counts = count_reasons(situation)
    machine_count = int(np.count_nonzero(situation.known))
    machine, detail = _nearest(situation)
    return Misfit(
        summary=_summary(counts, machine_count),
        machine_count=machine_count,
        counts=counts,
        nearest_machine=machine,
        nearest_detail=detail,
        hints=hints(situation),
    )


def brief_misfit(candidates: Candidates) -> Misfit:
    """The reason in short, when a pass has too many different ones."""
    machine_count = len(candidates.scratch.cell.slots)
    return Misfit(
        summary=f"does not fit on {machine_count} of {machine_count} machines; ask for this task alone to see why",
        machine_count=machine_count,
    )


def count_reasons(situation: Situation) -> tuple[MisfitCount, ...]:
    """Every machine once, at its first failing check; most frequent first, then in the order of the checks."""
    counts = _count_not_taking(situation)
    left = situation.known & situation.takes
    for constraint, mask in situation.hard:
        counts.append(MisfitCount("constraint", str(constraint), int((left & ~mask).sum())))
        left = left & mask
    for dimension, enough in situation.enough.items():
        reason = REASON_OF_DIMENSION[dimension]
        counts.append(MisfitCount(reason, "", int((left & ~enough).sum())))
        left = left & enough
    for limit, mask in situation.limits.items():
        counts.append(MisfitCount(limit, "", int((left & ~mask).sum())))
        left = left & mask
    return tuple(
        sorted((count for count in counts if count.machines), key=lambda count: -count.machines)
    )


def split_reason(reason: str) -> tuple[str, str]:
    """Reason code and detail of a machine that takes no tasks: "not ready: x" is ("not_ready", "x")."""
    if reason in ("down", "draining"):
        return reason, ""
    return "not_ready", reason.removeprefix(_NOT_READY_PREFIX).removeprefix(":").strip()


def _count_not_taking(situation: Situation) -> list[MisfitCount]:
    rows = situation.scratch.cell.rows
    slots = np.flatnonzero(situation.known & ~situation.takes)
    found = Counter(split_reason(rows[slot].reason) for slot in slots.tolist())
    counts: list[MisfitCount] = []
    others = 0
    details = 0
    for (reason, detail), machines in sorted(found.items(), key=lambda item: (-item[1], item[0])):
        details += reason == "not_ready"
        if details > NOT_READY_DETAILS_MAX and reason == "not_ready":
            others += machines
        else:
            counts.append(MisfitCount(reason, detail, machines))
    if others:
        counts.append(MisfitCount("not_ready", "for other reasons", others))
    return counts


def _summary(counts: tuple[MisfitCount, ...], machine_count: int) -> str:
    if not machine_count:
        return "the cell has no machines"
    reasons = ", ".join(map(str, counts))
    return f"does not fit on {machine_count} of {machine_count} machines: {reasons}"


def _nearest(situation: Situation) -> tuple[str, str]:
    """The machine that lacks least, and what: limits of the job, then room, then attributes, then readiness."""
    qualified = situation.known & situation.takes & situation.meets_hard()
    rows = situation.scratch.cell.rows
    blocked = np.flatnonzero(qualified & situation.fits())
    if len(blocked):
        slot = int(blocked[0])
        return rows[slot].name, _limit_detail(situation, slot)
    full = np.flatnonzero(qualified)
    if len(full):
        slot = int(full[np.argmin(situation.lack_share()[full])])
        return rows[slot].name, _lack_detail(situation, slot)
    unlike = np.flatnonzero(situation.known & situation.takes)
    if len(unlike):
        misses = np.add.reduce([~mask for _, mask in situation.hard], dtype=np.int64)
        cost = misses + 0.5 * ~situation.fits()
        slot = int(unlike[np.argmin(cost[unlike])])
        return rows[slot].name, _attribute_detail(situation, slot)
    closed = np.flatnonzero(situation.known)
    if not len(closed):
        return "", ""
    fitting = situation.meets_hard() & situation.fits()
    slot = int(closed[np.argmax(fitting[closed])])
    return rows[slot].name, f"is {rows[slot].reason or 'not taking tasks'}"


def _limit_detail(situation: Situation, slot: int) -> str:
    shape, spread = situation.ask.shape, situation.spread
    rack = int(situation.scratch.cell.rack[slot])
    here, in_rack = spread.on_machine.get(slot, 0), spread.on_rack.get(rack, 0)
    if shape.max_per_machine and here >= shape.max_per_machine:
        return f"already has {here} of the job's tasks, max_per_machine is {shape.max_per_machine}"
    return (
        f"its rack already has {in_rack} of the job's tasks, max_per_rack is {shape.max_per_rack}"
    )


def _lack_detail(situation: Situation, slot: int) -> str:
    free = Resources(*situation.could_free[:, slot].tolist()).as_tuple()
    return "; ".join(
        f"wants {format_quantity(dimension, wanted)}, could free {format_quantity(dimension, max(here, 0))}"
        for dimension, wanted, here in zip(DIMENSIONS, situation.ask.limit, free, strict=True)
        if wanted and wanted > here
    )


def _attribute_detail(situation: Situation, slot: int) -> str:
    attributes = situation.scratch.cell.rows[slot].attributes
    missed: list[Constraint] = [one for one, mask in situation.hard if not mask[slot]]
    return "; ".join(
        f"wants {one}, its {one.attribute} is {attributes.get(one.attribute) or 'not set'}"
        for one in missed
    )
