"""Loss recovered: how well the whole model still predicts text where reconstructions take the place of activations.

1. The model reads the attribution prompts, clean and counterfactual, three times: as it is; with every write site of
   the basis at its reconstruction, made from the activations of that very pass; with every write site at one mean over
   all tokens. The beginning-of-sequence position is left alone, and what the basis was not trained on, as in the fit
   (`attribution.fit`).
2. Each time the cross-entropy of every token but the first is averaged: L(model), L(reconstruction), L(mean).
3. Loss recovered is (L(mean) - L(reconstruction)) / (L(mean) - L(model)): 1 is perfect, 0 no better than the mean.

SAELens (`sae_lens.evals.get_recons_loss`) and Rajamanoharan et al. 2024 (arXiv 2404.16014, "loss recovered"; as code
`loss_recovered` of dictionary_learning, evaluation.py) replace one site and compare with zeros, on texts. Here all
layers are replaced at once, for a circuit needs them all; the mean takes the place of zeros, for zeros break a model so
thoroughly that any reconstruction beside them looks good; and the texts are the task's own prompts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import product
from typing import TYPE_CHECKING

from basisbench.attribution.cost import now
from basisbench.attribution.fitting import SIDES, first_measured, together
from basisbench.attribution.reconstruction import EarlierWrites
from basisbench.models.batching import BUDGETS
from basisbench.protocols import CrossLayerBasis, StreamedBasis, training_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from jaxtyping import Float
    from torch import Tensor

    from basisbench.attribution.context import GroupContext
    from basisbench.models.hooks import Edit, Place
    from basisbench.models.model import Model
    from basisbench.protocols import Basis
    from basisbench.types import Site

_STREAMED = 8
"""How many times larger passes are where each of them reads weights from files."""


SharedLosses = dict[tuple[int, tuple[str, ...]], tuple[float, float]]
"""Loss of a task's prompts with the mean at some hooks, none for the model as it is, from a position on; and the
seconds that it took."""


def loss_recovered(basis: Basis, groups: Sequence[GroupContext], shared: SharedLosses) -> tuple[float | None, float]:
    """Return the share of the loss of mean ablation that the reconstruction avoids, and the seconds of all passes.

    Args:
        basis: a basis with reconstruction errors.
        groups: the aligned groups of the attribution split.
        shared: what other bases of the task have measured, to be added to; its seconds count in full for each.

    Returns:
        None for the share where the mean loses nothing.
    """
    model, trained_from = groups[0].model, training_of(basis).first_position

    def with_mean_at(first: int, hooks: tuple[str, ...]) -> tuple[float, float]:
        if (first, hooks) not in shared:
            start = now(model)
            edits = partial(_constant, model, _means(groups, basis, first) if hooks else {})
            shared[first, hooks] = sum(_loss(group, basis, edits) for group in groups), now(model) - start
        return shared[first, hooks]

    plain, plain_seconds = with_mean_at(0, ())
    ablated, mean_seconds = with_mean_at(trained_from, tuple(site.write for site in basis.sites))
    start, share = now(model), None
    if ablated > plain:
        kept = sum(_loss(group, basis, partial(_live, model, basis)) for group in groups)
        share = (ablated - kept) / (ablated - plain)
    return share, plain_seconds + mean_seconds + now(model) - start


def _constant(model: Model, values: Mapping[str, Float[Tensor, " d"]], start: int) -> Mapping[Place, Edit]:
    """Return edits that put one value at every position of a hook."""
    return {model.place(hook): _put(value.to, start) for hook, value in values.items()}


def _loss(group: GroupContext, basis: Basis, edits: Callable[[int], Mapping[Place, Edit]]) -> float:
    """Return the summed cross-entropy of a group's prompts; a sum, so that every token counts alike over groups."""
    import torch

    model, start = group.model, first_measured(group.pairs, training_of(basis).first_position)
    tokens = torch.cat([group.tokens("clean"), group.tokens("counterfactual")])
    rows, length = tokens.shape
    if length < 2:
        return 0.0  # nothing comes next

    def run_part(chosen: slice) -> float:
        with torch.no_grad():
            return float(model.next_token_losses(tokens[chosen], edits(start)).double().sum())

    vocabulary = int(model.bridge.cfg.d_vocab)
    most = BUDGETS["losses"].on(model.device.type) // (4 * vocabulary)
    if isinstance(basis, StreamedBasis) and basis.streams:
        most *= _STREAMED
    return sum(model.batching.in_parts("losses", rows, length, run_part, most=most))


def _means(groups: Sequence[GroupContext], basis: Basis, first: int) -> Mapping[str, Float[Tensor, " d"]]:
    """Return the mean over all tokens, from a position on, at every write site of a basis."""
    hooks = tuple(dict.fromkeys(site.write for site in basis.sites))
    sums: dict[str, Tensor] = {}
    tokens = 0
    for contexts in together(groups, basis):
        for context, side in product(contexts, SIDES):
            start = first_measured(context.pairs, first)
            rows = {hook: context.activation(hook, side)[:, start:] for hook in hooks}
            for hook, values in rows.items():
                found = values.flatten(0, 1).double().sum(0)
                sums[hook] = sums[hook] + found if hook in sums else found
            tokens += rows[hooks[0]][..., 0].numel()
    return {hook: total / tokens for hook, total in sums.items()}


def _live(model: Model, basis: Basis, start: int) -> Mapping[Place, Edit]:
    """Return edits that put the reconstruction of a pass in the place of its activations."""
    return _LivePass(basis, start).edits(model)


def _put(change: Callable[[Tensor], Tensor], start: int) -> Edit:
    """Return an edit that replaces an activation from a position on."""

    def edit(activation: Tensor) -> Tensor:
        changed = activation.clone()
        changed[:, start:] = change(activation[:, start:])
        return changed

    return edit


class _LivePass:
    """One pass in which every site writes the reconstruction of what it reads in that pass."""

    def __init__(self, basis: Basis, start: int) -> None:
        self._basis, self._start = basis, start
        self._units: dict[Site, Tensor] = {}
        self._earlier = EarlierWrites(basis, self._units.__getitem__) if isinstance(basis, CrossLayerBasis) else None

    def edits(self, model: Model) -> Mapping[Place, Edit]:
        """Return what is done at the hooks of every site."""
        edits: dict[Place, Edit] = {}
        for site in self._basis.sites:
            read, write = model.place(site.read), model.place(site.write)
            if read != write:
                edits[read] = self._reader(site)
            edits[write] = self._writer(site, reads=read == write)
        return edits

    def _reader(self, site: Site) -> Edit:
        def edit(activation: Tensor) -> None:
            self._read(site, activation[:, self._start :])

        return edit

    def _read(self, site: Site, activation: Float[Tensor, "row pos d_read"]) -> None:
        self._units[site] = self._basis.encode(site, activation)

    def _writer(self, site: Site, *, reads: bool) -> Edit:
        def reconstructed(activation: Tensor) -> Tensor:
            if reads:
                self._read(site, activation)
            units = self._units.pop(site)
            written = self._basis.decode(site, units)
            if self._earlier is not None:
                before = self._earlier.at(site)
                written = written if before is None else written + before
                self._earlier.offer(site, units)
            return written.to(activation.dtype)

        return _put(reconstructed, self._start)
