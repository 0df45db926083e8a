"""The edge-ablated pass, as it is defined: some nodes, and which edges between them are kept.

The nodes are those of a node circuit; every other node of the family is at its reference, for every target alike.

1. Nodes are reached in the order of their sites, and the logits last. Each of these targets has *an input of its own*:
   the model is run on the clean prompts with, at every earlier write site, what the site writes when each node of the
   set is at its live value where its edge into this target is kept, and at its reference everywhere else. The
   embedding of a token is live where its edge into this target is kept, else at its reference.
2. A target's live value is its coordinate in that run: patterns, norms and nonlinearities are computed anew in it.
   Later targets get it along kept edges.
3. The metric of the last target, the logits, is the value of the circuit of edges.

So an edge that is cut carries the reference of its source into its target alone. With every edge kept all targets have
the same input, that of the node circuit (`circuits.plain`); with none, each sees references alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from basisbench.attribution.batch import readable_logits
from basisbench.attribution.own_pass import EMBEDDINGS
from basisbench.attribution.values import reduced
from basisbench.circuits.evaluate import tokens_per_pass
from basisbench.models.hooks import Edit, Place

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from torch import Tensor

    from basisbench.attribution.batch import Batch
    from basisbench.attribution.chosen_nodes import ChosenNodes
    from basisbench.circuits.circuit import Reference
    from basisbench.circuits.group import GroupPair
    from basisbench.models.model import Model


class _ReachedError(Exception):
    """A run has come as far as its targets; nothing behind them matters."""


@dataclass(frozen=True, eq=False)
class EdgePass:
    """Circuits of edges between some nodes, one at a time.

    Attributes:
        model: the model.
        nodes: the nodes.
        batch: the pairs.
        reference: values of nodes where they are not live.
        tokens: embeddings of tokens where they are not live.
        most: how many tokens one run holds.
    """

    model: Model
    nodes: ChosenNodes
    batch: Batch
    reference: Reference
    tokens: Float[Tensor, "pair_or_1 pos d_model"]
    most: int

    def metric(self, kept: Bool[Tensor, "source target"]) -> Float[Tensor, " pair"]:
        """Return the metric of each row of the batch with these edges kept.

        Args:
            kept: sources are the tokens in order, then the nodes; targets the nodes, then the logits. Only edges that
                can be (`attribution.edge_scores.possible_edges`).
        """
        import torch

        pairs, length = self.batch.clean.shape
        with torch.inference_mode():
            still = self._reference_values()
            live = still.expand(pairs, -1).clone()
            for index in self.nodes.target_sites:
                numbers = self.nodes.at(index)

                def run_part(chosen: slice, numbers: list[int] = numbers) -> Tensor:
                    return self._values(numbers[chosen], kept, live - still)

                in_parts = self.model.batching.in_parts
                found = in_parts("circuits", len(numbers), pairs * length, run_part, most=self.most)
                live[:, numbers] = torch.cat(found, 1).to(live.dtype)
            edits = self._edits([len(self.nodes)], len(self.nodes.basis.sites), kept, live - still)
            head = self.model.fast_body.get_submodule(self.model.head)
            with readable_logits(head, self.batch) as batch:
                return batch.metric(self.model.logits(batch.clean, edits, fast=True, keep=batch.keep))

    def _reference_values(self) -> Float[Tensor, "pair_or_1 node"]:
        units, errors = self.reference.units, self.reference.errors
        sites = range(len(units))
        return self.nodes.pick(
            {index: units[index] for index in sites},
            {index: None if errors is None else errors[index] for index in sites},
        )

    def _values(
        self, numbers: list[int], kept: Bool[Tensor, "source target"], moved: Float[Tensor, "pair node"]
    ) -> Float[Tensor, "pair row"]:
        """Return the values of some nodes of one site, each in a run of its own: row after row of one batch."""
        import torch

        index = self.nodes.nodes[numbers[0]][0]
        basis, rows = self.nodes.basis, torch.arange(len(numbers), device=self.model.device)
        positions = torch.tensor([self.nodes.nodes[number][1] for number in numbers], device=self.model.device)
        reads: dict[int, Tensor] = {}
        written: list[Tensor] = []

        def own(activation: Tensor) -> Tensor:
            return activation.unflatten(0, (len(numbers), -1))[rows, :, positions].transpose(0, 1)

        def read(site: int) -> Edit:
            return lambda activation: reads.__setitem__(site, own(activation))

        def stop(activation: Tensor) -> None:
            if index not in reads:  # it is read where it is written
                reads[index] = own(activation)
            written.append(own(activation))
            raise _ReachedError

        edits = self._edits(numbers, index, kept, moved)
        for site in range(index + 1) if self.nodes.needs_earlier_reads(numbers) else (index,):
            if basis.sites[site].read != basis.sites[site].write:
                edits[self.model.place(basis.sites[site].read)] = read(site)
        edits[self.model.place(basis.sites[index].write)] = stop
        clean = self.batch.clean.repeat(len(numbers), 1)
        try:
            self.model.logits(clean, edits, fast=True)
        except _ReachedError:
            self.model.meter.forward_equivalents += len(clean) * (basis.sites[index].layer + 1) / self.model.layers
        return self.nodes.values(numbers, reads, written[0])

    def _edits(
        self, targets: list[int], stop: int, kept: Bool[Tensor, "source target"], moved: Float[Tensor, "pair node"]
    ) -> dict[Place, Edit]:
        """Return what is put at the embeddings and at the write sites before one, a block of rows for each target."""
        length, basis = self.batch.clean.shape[1], self.nodes.basis
        by_target = kept[:, targets].T
        # Moves of the sources that reach each target: (target, pair, node).
        moves = by_target[:, None, length:] * moved

        def embed(activation: Tensor) -> Tensor:
            own = activation.unflatten(0, (len(targets), -1))
            return own.where(by_target[:, None, :length, None], self.tokens.to(own.dtype)).flatten(0, 1)

        def write(index: int) -> Edit:
            output = self.reference.output(basis, index)

            def edit(activation: Tensor) -> Tensor:
                new = output + self.nodes.written(index, moves, output)
                return new.to(activation.dtype).flatten(0, 1)

            return edit

        edits = {self.model.place(site.write): write(index) for index, site in enumerate(basis.sites[:stop])}
        return {self.model.place(EMBEDDINGS): embed, **edits}


def edge_pass(group: GroupPair, nodes: ChosenNodes) -> EdgePass:
    """Return the pass over the evaluation pairs of a group, under the ablation of its cell.

    Args:
        group: the group, whose attribution split gives mean references.
        nodes: the nodes.
    """
    ablation, model = group.attribution.ablation, group.evaluation.model
    source = group.evaluation if ablation == "counterfactual" else group.attribution
    tokens = reduced(source.activation(EMBEDDINGS, "counterfactual"), ablation)
    reference = group.reference(nodes.basis, ablation)
    most = model.batching.tokens("circuits", tokens_per_pass(model, nodes.basis))
    return EdgePass(model, nodes, group.evaluation.batch, reference, tokens, most)
