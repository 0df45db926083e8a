"""Control of a method: its scores, of units shuffled within each layer and position.

What it still finds is due to layers and positions, what the method finds beyond that to units.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from basisbench.attribution.projection import projected_scores
from basisbench.protocols import Basis, Method, ScoringContext
from basisbench.types import Passes, Scores, Style

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class Shuffled:
    """Score units by RelP, and give each score to another unit of its layer and position, drawn by the cell's seed."""

    name: str = "relp_shuffled"
    summary: str = "control: RelP's scores, shuffled over the units of each layer and position"
    order: ClassVar[int] = 8
    style: ClassVar[Style] = Style("grey", "dashed", "P")
    passes: ClassVar[Passes] = Passes(per_prompt=3, shared="task")
    mean_over_pairs: ClassVar[bool] = True  # every part of the pairs is shuffled alike

    def score(self, context: ScoringContext, basis: Basis) -> Scores:
        """Return RelP's scores in another order; the same basis and group get the same order under the same seed."""
        found = projected_scores(context, basis, "relp")
        generator = context.generator("shuffled scores", basis.name)
        units = tuple(_shuffled(scores, generator) for scores in found.units)
        errors = None if found.errors is None else tuple(_shuffled(scores, generator) for scores in found.errors)
        return Scores(units, errors)


def _shuffled(scores: Tensor, generator: torch.Generator) -> Tensor:
    """Return scores (position, unit), each row in an order of its own."""
    import torch

    order = torch.stack([torch.randperm(scores.shape[1], generator=generator) for _ in range(len(scores))])
    return scores.gather(1, order.to(scores.device))


PROVIDES: tuple[Method, ...] = (Shuffled(),)
