"""Values of nodes: the shapes they must have, and what they are where a node is not in the circuit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from basisbench.errors import BasisError

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from basisbench.protocols import Basis
    from basisbench.types import Ablation, Site


def shaped(value: Tensor, leading: Sequence[int], basis: Basis, name: str, site: Site) -> Tensor:
    """Refuse what a basis returns if it is no tensor, or if its shape does not begin as it must.

    Args:
        value: what was returned.
        leading: the first axes; those of coordinates leave out the units.
        basis: the basis.
        name: "encode" or "decode".
        site: the site.
    """
    import torch

    found = tuple(value.shape) if isinstance(value, torch.Tensor) else type(value).__name__
    whole = name == "decode"
    if not isinstance(found, tuple) or (found if whole else found[:-1]) != tuple(leading) or not found:
        expected = f"({', '.join(map(str, leading))}{'' if whole else ', units'})"
        raise BasisError(
            f"basis '{basis.name}': {name} gives {found} at {site.write if whole else site.read}, expected a tensor of "
            f"shape {expected}"
        )
    if not value.is_floating_point():  # imaginary parts would be lost without a word
        raise BasisError(f"basis '{basis.name}': {name} gives a tensor of {value.dtype}, expected floating point")
    return value


def reduced(values: Float[Tensor, "pair pos d"], ablation: Ablation) -> Float[Tensor, "pair_or_1 pos d"]:
    """Return reference values, from values in the counterfactual prompts.

    The mean of equal values is that value to the last bit: a node that is the same in all prompts has no score, not one
    that rounding has made.

    Args:
        values: in each pair's counterfactual prompt.
        ablation: "mean" over the pairs, "counterfactual" as they are, or "zero".
    """
    if ablation == "counterfactual":
        return values
    if ablation == "zero":
        return values.new_zeros(values[:1].shape)
    first = values[:1]
    return first.where((values == first).all(0, keepdim=True), values.mean(0, keepdim=True))
