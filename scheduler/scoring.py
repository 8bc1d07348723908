"""Owns how good a machine is for a task: the weights of the policies, as a column and for one machine.

The two forms compute the same sum; a property test holds them together. More is better.
"""

from collections.abc import Mapping
from typing import Final

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from scheduler.plan import Score
from scheduler.scratch import Ask, JobSpread, Scratch

Scores = NDArray[np.float32]


class Weights(Struct, frozen=True):
    """What one unit of each part is worth.

    Sources: B15 §3.2 names the parts but publishes no numbers; the numbers are ours, in this order of strength.
    spread_machine, spread_rack   per task of the same job already on the machine or in its rack. Strong: above
                                  what all packing parts together can differ by, so that jobs survive failures.
    soft                          share of the soft constraints that hold; one spread step outweighs it.
    stranded                      per share of a machine's cpu and ram that becomes unusable because another
                                  dimension is full: the hybrid of B15 §3.2, 3-5 % better packing than best fit.
    fit                           per share of cpu and ram in use afterwards; mild in the hybrid (borg.md §1.4).
                                  Negative for worst fit, as E-PVM in effect was (B15 §3.2).
    mix                           per cpu share by which the other side (prod or non-prod) prevails there, so
                                  that prod finds non-prod neighbours to expand over (B15 §3.2).
    dice                          at most so much by seed, to tell equal machines apart: passes of several
                                  leaders do not pile onto the first machine (relaxed randomization, B15 §3.4).
    """

    stranded: float = 0.0
    fit: float = 0.0
    mix: float = 0.0
    spread_machine: float = 4.0
    spread_rack: float = 2.0
    soft: float = 1.5
    dice: float = 0.001


POLICIES: Final[Mapping[str, Weights]] = {
    "hybrid": Weights(stranded=1.0, fit=0.3, mix=0.2),
    "best_fit": Weights(fit=1.0),
    "worst_fit": Weights(fit=-1.0),
}
DEFAULT_POLICY: Final = "hybrid"


def score_column(scratch: Scratch, ask: Ask, spread: JobSpread, weights: Weights) -> Scores:
    """The score of every slot, fitting or not: float32[slots]."""
    share = scratch.share
    after = [
        column - ask.limit[dimension] * scratch.cell.inverse[dimension, : scratch.size]
        if ask.limit[dimension]
        else column
        for dimension, column in enumerate(share)
    ]
    mean = (after[0] + after[1]) * np.float32(0.5)
    score: Scores = scratch.dice * np.float32(weights.dice)
    if weights.stranded:
        scarcest = np.minimum(np.minimum(after[0], after[1]), np.minimum(after[2], after[3]))
        score -= np.float32(weights.stranded) * (mean - scarcest - scratch.stranded)
    if weights.fit:
        score += np.float32(weights.fit) * (np.float32(1) - mean)
    if weights.mix:
        lean = scratch.lean if ask.prod else -scratch.lean
        score += np.float32(weights.mix) * np.maximum(lean, np.float32(0))
    if ask.soft is not None:
        score += np.float32(weights.soft) * ask.soft
    _subtract_spread(score, scratch, spread, weights)
    return score


def _subtract_spread(score: Scores, scratch: Scratch, spread: JobSpread, weights: Weights) -> None:
    if not spread.on_machine:
        return
    slots = np.fromiter(spread.on_machine.keys(), dtype=np.int64)
    counts = np.fromiter(spread.on_machine.values(), dtype=np.float32)
    score[slots] -= np.float32(weights.spread_machine) * counts
    score -= np.float32(weights.spread_rack) * scratch.by_rack(spread.on_rack)


def score_at(scratch: Scratch, ask: Ask, spread: JobSpread, weights: Weights, slot: int) -> Score:
    """The score of one machine, part by part."""
    free = scratch.share[:, slot].tolist()
    inverse = scratch.cell.inverse[:, slot].tolist()
    after = [
        here - limit * per if limit else here
        for here, limit, per in zip(free, ask.limit, inverse, strict=True)
    ]
    mean = (after[0] + after[1]) / 2
    lean = float(scratch.lean[slot])
    rack = int(scratch.cell.rack[slot])
    soft = 0.0 if ask.soft is None else float(ask.soft[slot])
    return Score(
        stranded=-weights.stranded * (mean - min(after) - float(scratch.stranded[slot])),
        fit=weights.fit * (1 - mean),
        spread_machine=-weights.spread_machine * spread.on_machine.get(slot, 0),
        spread_rack=-weights.spread_rack * spread.on_rack.get(rack, 0),
        soft=weights.soft * soft,
        mix=weights.mix * max(lean if ask.prod else -lean, 0.0),
        dice=weights.dice * float(scratch.dice[slot]),
    )
