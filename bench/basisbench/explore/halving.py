"""Halves of what a circuit leaves out: does it hit its target by what it holds, or by cancellation?

1. Random halves are live beside the circuit, and everything else is at its reference.
2. A search finds the halves that lower and raise the metric most (`circuits.adversarial`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Integral

from basisbench.attribution.context import seeded_generator
from basisbench.circuits.curve import GroupMeasurement, mean_of
from basisbench.circuits.ranking import rank
from basisbench.errors import BasisBenchError, hold
from basisbench.explore.steps import NodeScores
from basisbench.protocols import BasisSpec
from basisbench.registry import load_registry
from basisbench.runs.cell_record import pooled_subset_checks
from basisbench.runs.session import Session


@dataclass(frozen=True)
class Halves:
    """Faithfulness of one circuit with half of everything else live; 1 where the circuit holds what matters.

    Attributes:
        size: nodes in the circuit, per aligned group.
        circuit: faithfulness of the circuit alone; NaN, as the others, where F(M) is F(0).
        random: with each random half.
        lowest: with the half that was found to lower the metric most; None where there was no search.
        highest: with the half that was found to raise it most; None likewise.
    """

    size: int
    circuit: float
    random: tuple[float, ...]
    lowest: float | None
    highest: float | None

    @property
    def worst(self) -> float:
        """The faithfulness that lies furthest from 1, of all halves."""
        found = (*self.random, *(value for value in (self.lowest, self.highest) if value is not None))
        return max(found, key=lambda value: abs(value - 1))


def halves(
    scores: NodeScores, pairs: Session, k: int, *, draws: int = 20, blocks: int = 50, basis: BasisSpec | None = None
) -> Halves:
    """Ablate halves of what the circuit of the k best nodes leaves out, at random and as a search finds them.

    Args:
        scores: what `score` returns.
        pairs: what `load_pairs` returns: the pairs that were scored.
        k: nodes of the circuit, per aligned group.
        draws: random halves, at least 1.
        blocks: of the nodes left out, over which the search runs: 352 passes over every evaluation pair for 50; no
            search for 0.
        basis: spec of a basis that is not registered.

    Raises:
        BasisBenchError: the scores are of other pairs, another model or another dictionary, or an argument is wrong.
    """
    hold("scores", scores, isinstance(scores, NodeScores), "what score returns")
    hold("pairs", pairs, isinstance(pairs, Session), "what load_pairs returns")
    hold("k", k, isinstance(k, Integral) and k >= 1, "a whole number of nodes, at least 1")
    hold("draws", draws, isinstance(draws, Integral) and draws >= 1, "a whole number, at least 1")
    hold("blocks", blocks, isinstance(blocks, Integral) and blocks >= 0 and blocks != 1, "0, or 2 and more")
    spec = basis or load_registry().get("basis", scores.cell.basis)
    if what := pairs.identity(spec, layers=scores.cell.layers).first_difference(scores.identities):
        raise BasisBenchError(f"scores of other weights or pairs: {what} differs; score these pairs")
    asked = {"subset_sizes": (int(k),), "subset_draws": int(draws), "subset_blocks": int(blocks)}
    cell, built = scores.cell.model_copy(update=asked), pairs.basis(spec, scores.cell.layers).basis
    curves = []
    for group in pairs.groups:
        key = group.evaluation.group
        ties = seeded_generator(cell.seed, cell.task, key, "ties")
        ranking = rank(scores.groups[key], policy=cell.error_policy, ties=ties)
        part = GroupMeasurement(cell, built, group, ranking)
        part.measure([k], complements=False)
        curves.append(part.curve([k], ()))
    (check,) = pooled_subset_checks(curves, cell.subset_sizes)
    full, empty, alone = (
        mean_of([value for row in rows for value in row])
        for rows in zip(*((curve.full, curve.empty, curve.circuit[0]) for curve in curves), strict=True)
    )

    def faithfulness(value: float) -> float:
        return (value - empty) / (full - empty) if full != empty else math.nan

    ends = (None, None) if check.adversarial is None else sorted(map(faithfulness, check.adversarial))
    return Halves(int(k), faithfulness(alone), tuple(map(faithfulness, check.draws)), *ends)
