"""Many pairs in little memory: an aligned group in parts of a few pairs each.

What a cell needs of every pair (activations in both runs, a gradient field, coordinates) grows with pairs and with
their length; what comes of it, a mean over pairs, does not.

1. Where all pairs of a split fit into `BUDGETS["pairs"]`, they are one part, kept for every basis and method.
2. Elsewhere a group is gone through in parts that do fit, of the same pairs every time. Each part has what the basis at
   hand asks for and nothing else. Where all parts fit like this, they are kept until another basis comes.
3. Otherwise a part is dropped when the next is made, and made anew when it is asked for again. A cell is charged for
   the work as if it had been done once (`attribution.cost`); its seconds are those that it took.
4. Means over parts are weighted by pairs, in float64. Equal values have exactly that value as their mean.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable
from typing import TYPE_CHECKING, TypeVar

from basisbench.models.batching import BUDGETS
from basisbench.protocols import ScoringContext
from basisbench.types import Scores

if TYPE_CHECKING:
    import torch
    from jaxtyping import Float
    from torch import Tensor

    from basisbench.models.model import Model
    from basisbench.types import Pairs

Part = TypeVar("Part", bound=ScoringContext)

_RULES = 4
"""Gradient fields that cells of one session may leave behind: one for each rule."""


def all_kept(tokens: int, every: int, written: int, budget: int) -> bool:
    """Return whether everything that cells ask for is kept of all pairs of a split.

    Args:
        tokens: of one side of the split.
        every: bytes of a token's activations at all sites.
        written: bytes of those at write sites, where gradients are taken.
        budget: bytes that may be kept.
    """
    return tokens * (2 * every + _RULES * written) <= budget


def tokens_of_a_part(every: int, written: int, budget: int) -> int:
    """Return how many tokens of one side a part of a group may have; the arguments are those of `all_kept`."""
    return budget // (2 * every + written)


def activation_bytes(model: Model, hooks: Collection[str], *, times: int = 1) -> int:
    """Return the bytes of one token's activations at hooks.

    Args:
        model: the model.
        hooks: the hooks.
        times: how many tensors there are at each of them.
    """
    cfg = model.bridge.cfg
    kinds, layers = set(model.kinds()), range(model.layers)
    wide = {model.hook("mlp_act", layer) for layer in layers} if "mlp_act" in kinds else set()
    numbers = sum(int(cfg.d_mlp if hook in wide else cfg.d_model) for hook in set(hooks))
    return times * numbers * model.dtype.itemsize


def pairs_of_a_part(model: Model, pairs: Pairs, split_tokens: int) -> int | None:
    """Return into how large parts an aligned group is cut; None where the whole split fits.

    Args:
        model: the model.
        pairs: the group.
        split_tokens: tokens of one side of the whole split.
    """
    budget, layers = BUDGETS["pairs"].on(model.device.type), range(model.layers)
    every, written = (
        activation_bytes(model, {model.hook(kind, layer) for kind in kinds for layer in layers})
        for kinds in (model.kinds(), model.written_kinds())
    )
    if all_kept(split_tokens, every, written, budget):
        return None
    return _even_step(pairs, tokens_of_a_part(every, written, budget))


def slices_that_fit(model: Model, pairs: Pairs, split_tokens: int, bytes_of_a_token: int) -> list[slice]:
    """Cut the pairs of a group so that some bytes of each token fit; one slice where those of the whole split do."""
    count, budget = len(pairs), BUDGETS["pairs"].on(model.device.type)
    if split_tokens * bytes_of_a_token <= budget:
        return [slice(0, count)]
    step = _even_step(pairs, budget // bytes_of_a_token)
    return [slice(start, min(start + step, count)) for start in range(0, count, step)]


def _even_step(pairs: Pairs, tokens: int) -> int:
    """Return how many pairs a part has so that none has more than some tokens, and all have about as many."""
    count = len(pairs)
    most = max(1, tokens // (pairs.token_count // count))
    return math.ceil(count / math.ceil(count / most))


def constants_fit(model: Model, split_tokens: int) -> bool:
    """Return whether the outputs of the modules before a first write fit, for all pairs of a split."""
    cfg = model.bridge.cfg
    each = 3 * (int(cfg.d_model) + int(cfg.d_mlp)) * model.dtype.itemsize
    return split_tokens * each <= BUDGETS["constants"].on(model.device.type)


class RunningMean:
    """The mean of rows that come in parts.

    It is the first row plus the mean distance from it, in float64: rows that are all equal have that value to the last
    bit, for a node that is the same in all prompts has no score, not one that rounding has made.
    """

    def __init__(self) -> None:
        self._first: Tensor | None = None
        self._total: Tensor | None = None
        self._rows = 0

    def add(self, values: Float[Tensor, " row *d"]) -> None:
        """Take some more rows."""
        if self._first is None:
            self._first = values[:1].clone()
        moved = (values - self._first).sum(0, keepdim=True).double()
        self._total = moved if self._total is None else self._total.add_(moved)
        self._rows += len(values)

    def mean(self) -> Float[Tensor, " 1 *d"]:
        """Return the mean, in the type of the rows."""
        if self._first is None or self._total is None:
            raise ValueError("there is no mean of no rows")
        return (self._first.double() + self._total / self._rows).to(self._first.dtype)


def mean_scores(score: Callable[[Part], Scores], parts: Iterable[Part]) -> Scores:
    """Return the scores of an aligned group as the mean over its parts.

    Args:
        score: gives the scores of a part, each a mean over its pairs.
        parts: the parts, one after the other.
    """
    total: list[Tensor] = []
    types: list[torch.dtype] = []
    pairs = sites = 0
    for part in parts:
        scores = score(part)
        values = [*scores.units, *(scores.errors or ())]
        sites, types = len(scores.units), [each.dtype for each in values]
        del scores
        weights = (values.pop(0).detach().double() * part.pair_count for _ in types)  # one by one: they are as large
        if total:
            for so_far, more in zip(total, weights, strict=True):
                so_far.add_(more)
        else:
            total = list(weights)
        pairs += part.pair_count
    means = tuple((total.pop(0) / pairs).to(dtype) for dtype in types)
    return Scores(means[:sites], means[sites:] or None)
