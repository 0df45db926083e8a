"""The metric of one example: mean answer logit minus mean foil logit at the last position."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor


def logit_difference(
    logits: Float[Tensor, "row vocab"],
    answers: Int[Tensor, "row answer"],
    foils: Int[Tensor, "row foil"],
) -> Float[Tensor, " row"]:
    """Return the metric of each row, in logits.

    Args:
        logits: logits at the last position, in at least float32.
        answers: ids of the tokens that the clean prompt calls for.
        foils: ids of the tokens that the counterfactual prompt calls for.
    """
    return logits.gather(1, answers).mean(1) - logits.gather(1, foils).mean(1)
