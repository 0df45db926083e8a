"""Centre and scale activations, so that a squared error over d is the fraction of variance unexplained."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Scaling:
    """Constants that centre and scale the activations at one hook.

    Attributes:
        mean: mean over tokens.
        scale: root of the mean squared norm about the mean, over the root of d.
    """

    mean: Float[Tensor, " d"]
    scale: float

    @classmethod
    def of(cls, x: Float[Tensor, "token d"]) -> Scaling:
        """Measure the constants."""
        mean = x.mean(0)
        return cls(mean, max(float((x - mean).square().mean().sqrt()), 1e-6))

    def apply(self, x: Float[Tensor, "token d"]) -> Float[Tensor, "token d"]:
        """Centre and scale."""
        return (x - self.mean) / self.scale
