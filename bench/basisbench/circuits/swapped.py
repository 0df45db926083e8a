"""Swapping: nodes at some positions take the values that they have for the counterfactual user.

Two tasks put the same words of the same users in front of two continuations, the frames: one states what the model
believes of the user, the other responds. What the response owes to nodes of the belief is a question of causal
mediation (Vig et al. 2020, arXiv 2004.12265: the natural indirect effect), here of a set of nodes, as a share of the
total effect:

1. An aligned group of the response is matched with the one of the belief that has the same users, pair by pair. Up to
   where the frames part, a position is the same in both: no token in front of it differs, and models are causal.
2. The places are some of these positions: of the user's turn, behind the last token in which clean and counterfactual
   prompt differ; from the first of these on; or behind the last, up to where the frames part.
3. A set of nodes at these places is *swapped*: it takes the values of the pair's counterfactual run in the clean run,
   and everything else is recomputed. That is the ablated pass of `circuits.plain` under counterfactual ablation, in
   which every node of the basis but these is kept.
4. A set is *kept alone*: every other node of the basis at these places is swapped.

With no node swapped this is the unhooked model. That all nodes of a basis are swapped does not make the places those of
the counterfactual user: what other parts of the model write there stays live. `swapped_places` swaps everything there:
the residual stream behind every block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from basisbench.circuits.circuit import CircuitMask
from basisbench.circuits.evaluate import evaluate
from basisbench.circuits.reference import output_hooks
from basisbench.errors import BasisBenchError
from basisbench.models.hooks import observed
from basisbench.types import SPLITS

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from torch import Tensor

    from basisbench.circuits.group import GroupPair
    from basisbench.circuits.placed_nodes import PlacedNodes
    from basisbench.models.hooks import Edit
    from basisbench.protocols import Basis

At = Literal["after", "cue", "header"]
"""Places: of the user's turn behind the cue; of it from the cue on; behind the cue up to where the frames part."""


def shared_positions(belief: GroupPair, response: GroupPair) -> int:
    """Return how many positions from the first on are the same in both groups: role and token, in every pair.

    Args:
        belief: an aligned group of one task.
        response: one of another; 0 where it has not as many pairs.
    """
    first = 10**9
    for split in SPLITS:
        one, other = (getattr(group, split).pairs for group in (belief, response))
        if len(one) != len(other):
            return 0
        length = min(one.length, other.length)
        same = [a == b for a, b in zip(one.roles, other.roles, strict=False)]
        for side in ("clean", "counterfactual"):
            equal = (getattr(one, side)[:, :length] == getattr(other, side)[:, :length]).all(0)
            same = [both and bool(here) for both, here in zip(same, equal, strict=True)]
        first = min(first, (*same, False).index(False))
    return first


def swap_positions(belief: GroupPair, response: GroupPair, at: At) -> tuple[int, ...]:
    """Return the places of two matched groups; empty where there are none.

    The user's turn ends in front of the first role that begins with "assistant".

    Args:
        belief: an aligned group.
        response: one with the same users.
        at: which.
    """
    shared, roles = shared_positions(belief, response), response.evaluation.pairs.roles
    differ = sorted({position for group in (belief, response) for position in _differing(group)})
    turn = next((position for position, role in enumerate(roles) if role.startswith("assistant")), len(roles))
    start = differ[0] if at == "cue" else differ[-1] + 1
    # The last position is read by the metric itself, and nothing of the frame stands in front of it.
    stop = min(shared, len(roles) - 1, len(roles) if at == "header" else turn)
    return tuple(range(start, stop))


def _differing(group: GroupPair) -> list[int]:
    found = (
        (pairs.clean != pairs.counterfactual).any(0) for pairs in (group.attribution.pairs, group.evaluation.pairs)
    )
    return [position for each in found for position in each.nonzero()[0].tolist()]


def matched(belief: Sequence[GroupPair], response: Sequence[GroupPair]) -> list[GroupPair]:
    """Return for each aligned group of the response the one of the belief that has the same users.

    Args:
        belief: the aligned groups of one task.
        response: those of the other.

    Raises:
        BasisBenchError: there is none.
    """
    found = []
    for group in response:
        last = max(_differing(group))
        best = max(belief, key=lambda one: shared_positions(one, group))
        if shared_positions(best, group) <= last:
            key, tasks = group.evaluation.pairs.group, (belief[0].evaluation.pairs.task, group.evaluation.pairs.task)
            raise BasisBenchError(
                f"mediate: no aligned group of '{tasks[0]}' has the users of group {key} of '{tasks[1]}', pair by "
                "pair; give two tasks that put the same words of the user in front of different continuations"
            )
        found.append(best)
    return found


@dataclass(frozen=True, eq=False)
class Swaps:
    """Sets of nodes at the places of one aligned group, each swapped or kept alone.

    Attributes:
        positions: the places.
        length: positions of a prompt.
        sets: the sets.
        alone: for each, whether it is kept alone rather than swapped.
        rotated: whether coordinates of the error are along rotated axes.
    """

    positions: tuple[int, ...]
    length: int
    sets: tuple[PlacedNodes, ...]
    alone: tuple[bool, ...]
    rotated: bool = False

    def masks(self, chosen: slice) -> CircuitMask:
        """Return which nodes are live with some of the sets."""
        sets = list(zip(self.sets[chosen], self.alone[chosen], strict=True))
        sites = range(len(sets[0][0].units))
        units = tuple(self._live([(own.units[site], alone) for own, alone in sets]) for site in sites)
        if any(own.errors is None for own, _ in sets):
            errors = tuple(units[0].new_ones(len(sets), 1, 1) for _ in sites)
        else:
            errors = tuple(self._live([((own.errors or ())[site], alone) for own, alone in sets]) for site in sites)
        return CircuitMask(units, errors, self.rotated)

    def _live(self, tables: Sequence[tuple[Bool[Tensor, "place node"], bool]]) -> Bool[Tensor, "circuit pos node"]:
        first = tables[0][0]
        live = first.new_ones(len(tables), self.length, first.shape[-1])
        for row, (own, alone) in zip(live, tables, strict=True):
            row[list(self.positions)] = own if alone else ~own
        return live

    def metric(self, group: GroupPair, basis: Basis, *, fast: bool = True) -> Float[Tensor, "case pair"]:
        """Return the metric of each evaluation pair of the group with each set."""
        return evaluate(group, basis, "counterfactual", self.masks, len(self.sets), fast=fast).metric


def swapped_places(group: GroupPair, positions: Sequence[int] | None) -> Float[Tensor, " pair"]:
    """Return the metric of each evaluation pair when everything at some positions is that of the counterfactual run.

    That is: the tokens, and the residual stream behind every block.

    Args:
        group: the group.
        positions: the positions; None for the counterfactual prompts themselves.
    """
    import torch

    model, whole = group.evaluation.model, group.evaluation.batch
    rows, length = whole.clean.shape
    places = [] if positions is None else list(positions)
    stream = {hook: model.place(hook) for hook in output_hooks(model, "resid", range(model.layers)) if places}

    def run_part(chosen: slice) -> Tensor:
        batch = whole.pairs(chosen)
        with torch.inference_mode():
            with observed(model.fast_body, stream) as seen:
                logits = model.logits(batch.counterfactual, fast=True)
            if positions is not None:
                tokens = batch.clean.clone()
                tokens[:, places] = batch.counterfactual[:, places]
                edits = {place: _put(seen[hook].to(model.device), places) for hook, place in stream.items()}
                logits = model.logits(tokens, edits, fast=True)
            return batch.metric(logits)

    parts = model.batching.in_parts("activations", rows, length, run_part, most=model.pass_tokens(length))
    return torch.cat(parts)


def _put(there: Float[Tensor, "pair pos d"], places: Sequence[int]) -> Edit:
    def edit(activation: Tensor) -> Tensor:
        swapped = activation.clone()
        swapped[:, places] = there[:, places]
        return swapped

    return edit
