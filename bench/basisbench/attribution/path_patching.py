"""Path patching, exactly: one edge at a time, in two passes of the plain model.

For the edge from a to b, on the clean prompts (Wang et al. 2022, arXiv 2211.00593; Goldowsky-Dill et al. 2023, arXiv
2304.05969):

1. Every write site of the family before b's is held at its clean value, but for a's write, which is moved to its
   reference; all else is computed anew. b takes some value.
2. In a second pass b alone is moved to that value, and everything behind it is computed anew. The score is the change
   of the metric. For an edge into the logits the first pass gives it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from basisbench.attribution.batch import readable_logits
from basisbench.attribution.own_pass import EMBEDDINGS
from basisbench.models.hooks import Edit, Place

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from torch import Tensor

    from basisbench.attribution.chosen_nodes import ChosenNodes
    from basisbench.attribution.context import GroupContext


def path_patched(
    context: GroupContext,
    nodes: ChosenNodes,
    moves: Float[Tensor, "pair node"],
    token_moves: Float[Tensor, "pair pos d_model"],
    possible: Bool[Tensor, "source target"],
) -> Float[Tensor, "source target"]:
    """Return the effect on the metric of patching each possible edge alone; the mean over pairs.

    Args:
        context: the aligned group.
        nodes: the nodes.
        moves: of each node, from clean to where it moves.
        token_moves: the same of each token's embedding.
        possible: the edges that are patched; all others have no effect.
    """
    import torch

    metric = context.clean_metric()
    score = metric.new_zeros(possible.shape)
    with torch.no_grad():
        for source, target in possible.nonzero().tolist():
            patch = _Patch(context, nodes, moves, token_moves, source)
            patched = patch.metric() if target == len(nodes) else patch.through(target)
            score[source, target] = (patched - metric).mean()
    return score


class _Patch:
    """One source's move, reaching one target alone."""

    def __init__(
        self, context: GroupContext, nodes: ChosenNodes, moves: Tensor, token_moves: Tensor, source: int
    ) -> None:
        self._context, self._nodes, self._tokens = context, nodes, token_moves
        node = source - token_moves.shape[1]
        self._token = source if node < 0 else None
        self._moves = _only(moves, node)

    def _held(self, before: int) -> dict[Place, Edit]:
        """Return the edits that hold write sites at their clean values, but for the source's move."""
        context, basis = self._context, self._nodes.basis
        edits: dict[Place, Edit] = {}
        if self._token is not None:
            edits[context.model.place(EMBEDDINGS)] = self._move_token
        for index, site in enumerate(basis.sites[:before]):
            clean = context.activation(site.write, "clean")
            held = clean + self._nodes.written(index, self._moves, clean)
            edits[context.model.place(site.write)] = _constant(held)
        return edits

    def _move_token(self, embedded: Tensor) -> Tensor:
        moved = embedded.clone()
        moved[:, self._token] += self._tokens[:, self._token].to(moved.dtype)
        return moved

    def metric(self) -> Tensor:
        return self._metric(self._held(len(self._nodes.basis.sites)))

    def through(self, target: int) -> Tensor:
        """Return the metric with the target at what it becomes when the source has moved."""
        nodes, basis = self._nodes, self._nodes.basis
        index, position, _ = nodes.nodes[target]
        context, site = self._context, basis.sites[index]
        sites = range(index + 1) if nodes.needs_earlier_reads([target]) else (index,)
        seen: dict[object, Tensor] = {}
        edits = self._held(index)
        for key, hook in [*((each, basis.sites[each].read) for each in sites), ("written", site.write)]:
            place = context.model.place(hook)
            edits[place] = _watching(seen, key, edits.get(place))
        context.model.logits(context.batch.clean, edits)
        reads = {each: seen[each][:, [position]] for each in sites}
        value = nodes.values([target], reads, seen["written"][:, [position]])
        clean = {each: context.activation(basis.sites[each].read, "clean")[:, [position]] for each in sites}
        before = nodes.values([target], clean, context.activation(site.write, "clean")[:, [position]])
        change = _only((value - before).expand(-1, len(nodes)), target)
        later = range(index, len(basis.sites))
        return self._metric({context.model.place(basis.sites[to].write): self._adding(to, change) for to in later})

    def _adding(self, index: int, change: Tensor) -> Edit:
        return lambda activation: activation + self._nodes.written(index, change, activation)

    def _metric(self, edits: Mapping[Place, Edit]) -> Tensor:
        context = self._context
        head = context.model.body.get_submodule(context.model.head)
        with readable_logits(head, context.batch) as batch:
            return batch.metric(context.model.logits(context.batch.clean, edits, keep=batch.keep))


def _only(moves: Tensor, node: int) -> Tensor:
    """Return moves of which all but one node's are zero."""
    only = moves.new_zeros(moves.shape)
    if node >= 0:
        only[..., node] = moves[..., node]
    return only


def _constant(value: Tensor) -> Edit:
    return lambda activation: value.to(activation.dtype)


def _watching(seen: dict[object, Tensor], key: object, then: Edit | None) -> Edit:
    """Return an edit that does what is to be done at the place, and keeps what goes on from there."""

    def edit(activation: Tensor) -> Tensor | None:
        changed = None if then is None else then(activation)
        seen[key] = activation if changed is None else changed
        return changed

    return edit
