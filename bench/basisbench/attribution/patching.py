"""Exact patching: the metric of the clean run with single nodes moved to what their scores ask for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from basisbench.attribution.batch import readable_logits
from basisbench.attribution.error_nodes import error_axes, from_nodes, to_nodes
from basisbench.models.hooks import Edit
from basisbench.protocols import CrossLayerBasis

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from basisbench.attribution.batch import Batch
    from basisbench.models.start_at_layer import BlockInputs
    from basisbench.protocols import Basis, ScoringContext
    from basisbench.types import Site


def patched_metric(
    context: ScoringContext,
    batch: Batch,
    entered: BlockInputs,
    basis: Basis,
    site: Site,
    positions: Sequence[int],
    units: Sequence[int],
) -> Float[Tensor, "node pair"]:
    """Return the metric with single nodes moved to their target, all in one pass.

    Args:
        context: the aligned group.
        batch: its tensors.
        entered: what enters each block on its clean prompts.
        basis: the basis.
        site: the site of the nodes.
        positions: of each node.
        units: of each node; -1 means the error, -1 - j its coordinate j where each is a node.
    """
    import torch

    clean, clean_error = context.coordinates(basis, site, "clean")
    other, other_error = context.target(basis, site)
    steps = clean.new_zeros((len(positions), len(clean), clean.shape[-1]))
    errors = clean.new_zeros(())
    axes = None
    if min(units) < 0:
        if clean_error is None or other_error is None:
            raise ValueError(f"basis '{basis.name}' is exact; it has no error node")
        errors = clean_error.new_zeros((len(positions), len(clean), clean_error.shape[-1]))
        axes = error_axes(context.error_policy, site, clean_error)
    for row, (position, unit) in enumerate(zip(positions, units, strict=True)):
        if unit >= 0:
            steps[row, :, unit] = other[:, position, unit] - clean[:, position, unit]
        elif clean_error is not None and other_error is not None:
            change = to_nodes(other_error[:, position] - clean_error[:, position], axes)
            if context.error_policy == "node":
                errors[row] = change
            else:
                errors[row, :, -1 - unit] = change[:, -1 - unit]
    errors = errors if errors.ndim == 0 else from_nodes(errors, axes)
    where = torch.tensor(positions, device=clean.device)

    def adding(change: Float[Tensor, "node pair d_write"]) -> Edit:
        def edit(activation: Tensor) -> Tensor:
            patched: Tensor = activation.unflatten(0, (len(positions), -1)).clone()
            rows = torch.arange(len(positions), device=change.device)
            patched[rows, :, where] = (patched[rows, :, where] + change).to(patched.dtype)
            return patched.flatten(0, 1)

        return edit

    own = basis.decode(site, steps) - basis.decode(site, clean.new_zeros(clean.shape[-1])) + errors
    edits = {context.model.place(site.write): adding(own)}
    if isinstance(basis, CrossLayerBasis):
        for later in basis.sites[basis.sites.index(site) + 1 :]:
            edits[context.model.place(later.write)] = adding(basis.spread(site, steps, later))
    head = context.model.fast_body.get_submodule(context.model.head)
    with readable_logits(head, batch):
        logits = entered.repeated(len(positions)).logits_from(site.layer, edits, keep=batch.keep)
    return batch.metric(logits.unflatten(0, (len(positions), -1)))
