"""Random scores: the floor that every method must clear."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from basisbench.protocols import Basis, Method, ScoringContext
from basisbench.types import Passes, Scores, Style

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class RandomScores:
    """Score every node by an independent standard normal draw, fixed by the cell's seed."""

    name: str = "random"
    summary: str = "standard normal scores, fixed by the seed: the floor"
    order: ClassVar[int] = 7
    style: ClassVar[Style] = Style("grey", "dotted", "X")
    passes: ClassVar[Passes] = Passes()
    mean_over_pairs: ClassVar[bool] = True  # every part of the pairs gets the same draws

    def score(self, context: ScoringContext, basis: Basis) -> Scores:
        """Return a draw per node; the same basis and group get the same draw under the same seed."""
        import torch

        generator = context.generator("random scores", basis.name)
        units: list[Tensor] = []
        errors: list[Tensor] = []
        for site in basis.sites:
            with torch.no_grad():
                clean, error = context.coordinates(basis, site, "clean")
            units.append(torch.randn(clean.shape[1:], generator=generator).to(clean.device))
            if error is not None:
                width = 1 if context.error_policy == "node" else error.shape[-1]
                errors.append(torch.randn(clean.shape[1], width, generator=generator).to(clean.device))
        return Scores(tuple(units), None if basis.exact else tuple(errors))


PROVIDES: tuple[Method, ...] = (RandomScores(),)
