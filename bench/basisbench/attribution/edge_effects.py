"""Direct effects between nodes: derivatives along the paths that run through no other node of the family.

1. One forward pass per batch, under backward rules. At every write site of the family the activation goes on as a
   constant, plus s_a times what node a writes, for a leaf s_a that is zero: values stay bit-equal, gradients stop at
   every write site, and the derivative with respect to s_a is that with respect to a's coordinate through its own
   write. The embedding of each token has a leaf too, along the way from clean to its reference.
2. For each site with nodes, their values' gradients with respect to what the site reads (a small local product), and
   from there *one batched vector-Jacobian product* to all leaves: a row of the batch per node. Never a pass per pair.
3. The metric's gradient in the same pass: direct effects on the logits.
4. A second pass in which nothing is constant gives the metric's whole gradient at every node: through all that lies
   behind it, other nodes included.

What flows through sites outside the family (attention, when the family is the MLPs) is part of a direct effect.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from basisbench.attribution.batch import answer_logits_only
from basisbench.attribution.own_pass import EMBEDDINGS, HEAD
from basisbench.models.batching import BUDGETS
from basisbench.models.model import Model, at_least_float32
from basisbench.models.relp import backward_rules

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from basisbench.attribution.batch import Batch
    from basisbench.attribution.chosen_nodes import ChosenNodes
    from basisbench.types import BackwardRules

_WIDTHS = 4
"""Activations of the model's and the MLP's width that a batched product holds at once for each token: 2.5 to 3.7 were
measured, by rule and site, in the shape of SmolLM2-135M."""


@dataclass(frozen=True, eq=False)
class Effects:
    """Derivatives on each pair. Sources are the tokens in order, then the nodes; targets the nodes, then the metric.

    Attributes:
        direct: of each target's value, directly, by a source: per unit of a node's coordinate, or for a token per whole
            move of its embedding.
        total: of the metric by each node's coordinate, along all paths.
    """

    direct: Float[Tensor, "pair source target"]
    total: Float[Tensor, "pair node"]


def effects_at(
    model: Model,
    batch: Batch,
    nodes: ChosenNodes,
    token_moves: Float[Tensor, "pair pos d_model"],
    rules: BackwardRules,
    embeddings: Float[Tensor, "pair pos d_model"] | None = None,
) -> Effects:
    """Return the effects between nodes on the clean prompts.

    Args:
        model: the model.
        batch: the pairs.
        nodes: the nodes.
        token_moves: from each token's embedding to its reference.
        rules: how gradients go back.
        embeddings: what takes the place of the clean embeddings.
    """
    import torch

    start = _Start(nodes, token_moves, embeddings)
    with _forward(model, batch, start, rules, stopped=True) as run:
        rows = [run.into_site(model, index) for index in nodes.target_sites]
        order = [number for index in nodes.target_sites for number in nodes.at(index)]
        back = torch.tensor([*order, len(nodes)], device=model.device).argsort()
        direct = torch.cat([*rows, run.into_metric(model).unsqueeze(0)])[back].permute(1, 2, 0)
    with _forward(model, batch, start, rules, stopped=False) as run:
        total = run.into_metric(model)[:, token_moves.shape[1] :]
    return Effects(direct.contiguous(), total)


@dataclass(frozen=True, eq=False)
class _Start:
    nodes: ChosenNodes
    token_moves: Tensor
    embeddings: Tensor | None


@dataclass(eq=False)
class _Run:
    """What one pass has left: leaves, and the activations that values and the metric are made of."""

    nodes: ChosenNodes
    node_leaf: Float[Tensor, "pair node"]
    token_leaf: Float[Tensor, "pair pos"]
    reads: dict[int, Tensor] = field(default_factory=dict)
    written: dict[int, Tensor] = field(default_factory=dict)
    metric: Float[Tensor, " pair"] | None = None

    def into_site(self, model: Model, index: int) -> Float[Tensor, "target pair source"]:
        """Return the derivatives of the values of a site's nodes by all leaves."""
        import torch

        numbers = self.nodes.at(index)
        tokens = self.token_leaf.numel()
        step = max(1, _tokens_per_product(model) // tokens)
        parts = [self._product(model, numbers[first : first + step]) for first in range(0, len(numbers), step)]
        return torch.cat(parts)

    def _product(self, model: Model, numbers: list[int]) -> Float[Tensor, "target pair source"]:
        """One batched vector-Jacobian product: a row of the batch for each target."""
        import torch

        index = self.nodes.nodes[numbers[0]][0]
        positions = [self.nodes.nodes[number][1] for number in numbers]
        sites = range(index + 1) if self.nodes.needs_earlier_reads(numbers) else (index,)
        entered = [*(self.reads[site] for site in sites), self.written[index]]
        with torch.enable_grad():
            own = [value.detach()[:, positions].requires_grad_() for value in entered]
            values = self.nodes.values(numbers, dict(zip(sites, own, strict=False)), own[-1])
            local = torch.autograd.grad(values.sum(), own, allow_unused=True)
        outputs: list[Tensor] = []
        seeds: list[Tensor] = []
        for value, gradient in zip(entered, local, strict=True):
            if gradient is not None and value.requires_grad:
                seed = value.new_zeros((len(numbers), *value.shape))
                seed[torch.arange(len(numbers)), :, positions] = gradient.transpose(0, 1).to(value.dtype)
                outputs.append(value)
                seeds.append(seed)
        leaves = (self.token_leaf, self.node_leaf)
        if not outputs:  # every way to the site is stopped
            return _joined((None, None), leaves, (len(numbers),))
        found = torch.autograd.grad(outputs, leaves, seeds, retain_graph=True, allow_unused=True, is_grads_batched=True)
        share = (self.nodes.basis.sites[index].layer + 1) / model.layers
        model.meter.forward_equivalents += 2 * len(numbers) * len(self.token_leaf) * share
        return _joined(found, leaves, (len(numbers),))

    def into_metric(self, model: Model) -> Float[Tensor, "pair source"]:
        """Return the derivatives of the metric by all leaves; the last that is asked of a pass."""
        import torch

        assert self.metric is not None
        leaves = (self.token_leaf, self.node_leaf)
        if not self.metric.requires_grad:
            return _joined((None, None), leaves, ())
        with torch.enable_grad():
            total = self.metric.sum()
        model.meter.forward_equivalents += 2 * len(self.token_leaf)
        return _joined(torch.autograd.grad(total, leaves, allow_unused=True), leaves, ())


def _joined(found: tuple[Tensor | None, ...], leaves: tuple[Tensor, ...], batch: tuple[int, ...]) -> Tensor:
    import torch

    pairs = zip(found, leaves, strict=True)
    parts = [leaf.new_zeros((*batch, *leaf.shape)) if value is None else value for value, leaf in pairs]
    return torch.cat(parts, -1).detach()


def _tokens_per_product(model: Model) -> int:
    """Return how many tokens, over all rows of its batch, one batched product holds."""
    configuration = model.bridge.cfg
    widths = _WIDTHS * (int(configuration.d_model) + int(configuration.d_mlp))
    return BUDGETS["gradients"].on(model.device.type) // (widths * max(4, model.dtype.itemsize))


@contextmanager
def _forward(model: Model, batch: Batch, start: _Start, rules: BackwardRules, *, stopped: bool) -> Iterator[_Run]:
    """Run the model once with a leaf for each source; `stopped` makes constants of what write sites pass on."""
    import torch

    pairs, length = batch.clean.shape
    kind = {"dtype": torch.promote_types(model.dtype, torch.float32), "device": model.device}
    node_leaf = torch.zeros(pairs, len(start.nodes), requires_grad=True, **kind)  # type: ignore[call-overload]
    token_leaf = torch.zeros(pairs, length, requires_grad=True, **kind)  # type: ignore[call-overload]
    run = _Run(start.nodes, node_leaf, token_leaf)
    head: list[Tensor] = []

    def embed(own: Tensor) -> Tensor:
        point: Tensor = (own if start.embeddings is None else start.embeddings.to(own)).detach()
        moved: Tensor = point + (token_leaf.unsqueeze(-1) * start.token_moves).to(own.dtype)
        return moved

    def read(index: int) -> Callable[[Tensor], None]:
        return lambda own: run.reads.__setitem__(index, own)

    def write(index: int) -> Callable[[Tensor], Tensor]:
        def put(own: Tensor) -> Tensor:
            run.written[index] = own
            added = start.nodes.written(index, node_leaf, own)
            goes_on: Tensor = (own.detach() if stopped else own) + added
            return goes_on

        return put

    with torch.enable_grad(), ExitStack() as stack:

        def hook(name: str, work: Callable[[Tensor], Tensor | None]) -> None:
            point = model.hook_point(name)
            stack.callback(point.register_forward_hook(lambda _module, _given, output: work(output)).remove)

        # After the rules: a node's value, and what it writes, are those that go on.
        stack.enter_context(backward_rules(model, rules))
        hook(EMBEDDINGS, embed)
        for index, site in enumerate(start.nodes.basis.sites):
            hook(site.read, read(index))
        for index, site in enumerate(start.nodes.basis.sites):
            hook(site.write, write(index))
        hook(HEAD, head.append)
        unembedding = model.component("unembed").original_component
        with answer_logits_only(unembedding, batch) as narrowed:
            model.bridge(batch.clean, use_cache=False, logits_to_keep=batch.keep)
        # Before any final soft-cap, as everywhere.
        run.metric = narrowed.metric(at_least_float32(head[0][:, -1].to(model.device)))
        model.meter.forward_equivalents += pairs
    yield run
