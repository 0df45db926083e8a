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
from functools import cached_property
from typing import TYPE_CHECKING

from basisbench.attribution.batch import readable_logits
from basisbench.attribution.edge_scores import possible_edges
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
class _Input:
    """Which sources are live in a run, and the nodes that are read off it."""

    kept: Bool[Tensor, " source"]
    targets: list[int]


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

        Targets whose inputs are the same up to what they can see share a run; nodes from which no kept edges lead to
        the logits need none.

        Args:
            kept: sources are the tokens in order, then the nodes; targets the nodes, then the logits. Only edges that
                can be (`attribution.edge_scores.possible_edges`).
        """
        import torch

        pairs, length = self.batch.clean.shape
        with torch.inference_mode():
            still = self._reference_values()
            live = still.expand(pairs, -1).clone()
            needed = self._needed(kept)
            for index in self.nodes.target_sites:
                inputs = self._inputs([number for number in self.nodes.at(index) if number in needed], kept)

                def run_part(chosen: slice, inputs: list[_Input] = inputs) -> list[tuple[list[int], Tensor]]:
                    return [self._values(inputs[chosen], live - still)]

                parts: list[list[tuple[list[int], Tensor]]] = []
                if inputs:
                    in_parts = self.model.batching.in_parts
                    parts = in_parts("circuits", len(inputs), pairs * length, run_part, most=self.most)
                for numbers, values in (each for part in parts for each in part):
                    live[:, numbers] = values.to(live.dtype)
            edits = self._edits([_Input(kept[:, -1], [])], len(self.nodes.basis.sites), live - still)
            head = self.model.fast_body.get_submodule(self.model.head)
            with readable_logits(head, self.batch) as batch:
                return batch.metric(self.model.logits(batch.clean, edits, fast=True, keep=batch.keep))

    @cached_property
    def _possible(self) -> Bool[Tensor, "source target"]:
        return possible_edges(self.nodes, self.batch.clean.shape[1]).to(self.model.device)

    def _needed(self, kept: Bool[Tensor, "source target"]) -> set[int]:
        """Return the nodes from which kept edges lead to the logits."""
        between = kept[kept.shape[0] - len(self.nodes) :].cpu()
        found: set[int] = set()
        waiting = [len(self.nodes)]
        while waiting:
            new = set(between[:, waiting.pop()].nonzero().flatten().tolist()) - found
            found |= new
            waiting += new
        return found

    def _inputs(self, numbers: list[int], kept: Bool[Tensor, "source target"]) -> list[_Input]:
        """Return the different inputs of some nodes of one site: what lies behind a node, it does not see."""
        inputs: list[_Input] = []
        for number in sorted(numbers, key=lambda number: -self.nodes.nodes[number][1]):
            own = kept[:, number]
            seen = self._possible[:, number]
            same = (each for each in inputs if (each.kept & seen).equal(own))
            found = next(same, None)
            if found is None:
                inputs.append(_Input(own, [number]))
            else:
                found.targets.append(number)
        return inputs

    def _reference_values(self) -> Float[Tensor, "pair_or_1 node"]:
        units, errors = self.reference.units, self.reference.errors
        sites = range(len(units))
        return self.nodes.pick(
            {index: units[index] for index in sites},
            {index: None if errors is None else errors[index] for index in sites},
        )

    def _values(
        self, inputs: list[_Input], moved: Float[Tensor, "pair node"]
    ) -> tuple[list[int], Float[Tensor, "pair target"]]:
        """Return nodes of one site and their values, each input in a block of rows of one batch."""
        import torch

        numbers = [number for each in inputs for number in each.targets]
        index = self.nodes.nodes[numbers[0]][0]
        basis, rows = self.nodes.basis, [row for row, each in enumerate(inputs) for _ in each.targets]
        positions = torch.tensor([self.nodes.nodes[number][1] for number in numbers], device=self.model.device)
        reads: dict[int, Tensor] = {}
        written: list[Tensor] = []

        def own(activation: Tensor) -> Tensor:
            by_input: Tensor = activation.unflatten(0, (len(inputs), -1))
            return by_input[rows, :, positions].transpose(0, 1)

        def read(site: int) -> Edit:
            return lambda activation: reads.__setitem__(site, own(activation))

        def stop(activation: Tensor) -> None:
            if index not in reads:  # it is read where it is written
                reads[index] = own(activation)
            written.append(own(activation))
            raise _ReachedError

        edits = self._edits(inputs, index, moved)
        for site in range(index + 1) if self.nodes.needs_earlier_reads(numbers) else (index,):
            if basis.sites[site].read != basis.sites[site].write:
                edits[self.model.place(basis.sites[site].read)] = read(site)
        edits[self.model.place(basis.sites[index].write)] = stop
        clean = self.batch.clean.repeat(len(inputs), 1)
        try:
            self.model.logits(clean, edits, fast=True)
        except _ReachedError:
            self.model.meter.forward_equivalents += len(clean) * (basis.sites[index].layer + 1) / self.model.layers
        return numbers, self.nodes.values(numbers, reads, written[0])

    def _edits(self, inputs: list[_Input], stop: int, moved: Float[Tensor, "pair node"]) -> dict[Place, Edit]:
        """Return what is put at the embeddings and at the write sites before one, a block of rows for each input."""
        import torch

        length, basis = self.batch.clean.shape[1], self.nodes.basis
        kept = torch.stack([each.kept for each in inputs])
        # Moves of the sources that reach each target: (input, pair, node).
        moves = kept[:, None, length:] * moved

        def embed(activation: Tensor) -> Tensor:
            own: Tensor = activation.unflatten(0, (len(inputs), -1))
            return own.where(kept[:, None, :length, None], self.tokens.to(own.dtype)).flatten(0, 1)

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
