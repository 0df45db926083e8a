"""Reference values: what a node outside the circuit is set to.

1. `mean`: the mean of its value over the attribution split's counterfactual prompts of the same aligned
   group, position by position.
2. `counterfactual`: its value in the same evaluation example's counterfactual run.
3. `zero`: zero.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from basisbench.circuits.circuit import Reference
from basisbench.models.hooks import Edit, Place
from basisbench.models.sites import family_output

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from basisbench.attribution.context import GroupContext
    from basisbench.models.model import Model
    from basisbench.protocols import Basis
    from basisbench.types import Ablation, Family


def reference_values(
    basis: Basis, ablation: Ablation, attribution: GroupContext, evaluation: GroupContext
) -> Reference:
    """Return the reference coordinates and errors of every site for one aligned group.

    Args:
        basis: the basis.
        ablation: which reference.
        attribution: the group in the attribution split, the source of means.
        evaluation: the group in the evaluation split, the source of counterfactual values.
    """
    import torch

    units: list[Tensor] = []
    errors: list[Tensor] = []
    source = evaluation if ablation == "counterfactual" else attribution
    with torch.no_grad():
        for site in basis.sites:
            coordinates, error = source.reduced_coordinates(basis, site, ablation)
            units.append(coordinates)
            if error is not None:
                errors.append(error)
    return Reference(tuple(units), None if basis.exact else tuple(errors))


def output_hooks(model: Model, family: Family, layers: Sequence[int]) -> list[str]:
    """Return the hooks of a family's outputs in some layers."""
    return [model.hook(family_output(family), layer) for layer in layers]


def reference_outputs(
    family: Family, layers: Sequence[int], ablation: Ablation, attribution: GroupContext, evaluation: GroupContext
) -> Mapping[str, Float[Tensor, "pair_or_1 pos d_write"]]:
    """Return the reference activation at a family's outputs, the same for every basis of the family.

    Under `mean` and `counterfactual` all nodes and errors at their reference make the activation itself take
    its reference; reading it off the activation gives one number for the whole family.
    """
    source = evaluation if ablation == "counterfactual" else attribution
    hooks = output_hooks(source.model, family, layers)
    return {hook: source.reduced_activation(hook, ablation) for hook in hooks}


def constant_edits(
    model: Model, outputs: Mapping[str, Float[Tensor, "pair_or_1 pos d"]], chosen: slice
) -> Mapping[Place, Edit]:
    """Return edits that put activations at given values.

    Args:
        model: the model.
        outputs: the value at each hook, of every pair or of all pairs alike.
        chosen: the pairs that a pass holds.
    """

    def constant(value: Tensor) -> Edit:
        # In memory of its own: GPT-2's layers take no view of one row.
        return lambda activation: value.to(activation.dtype).expand_as(activation).contiguous()

    return {model.place(hook): constant(value if len(value) == 1 else value[chosen]) for hook, value in outputs.items()}
