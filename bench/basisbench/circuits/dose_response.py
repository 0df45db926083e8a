"""What doses make of sets of nodes: on the task that they have roles on, and elsewhere, where units have none.

Elsewhere (other tasks, text, prompts of a user) each distinct unit of the nodes is moved at every position behind a
beginning-of-sequence token, or at the last one. The reference of a unit that is ablated there is the mean of its
references at its positions on the task, weighted by pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

from basisbench.circuits.evaluate import kl_divergence
from basisbench.circuits.moves import Moves, Node, Operation, doses_of, in_sequence, moved_alike
from basisbench.circuits.steered_nodes import SteeredNode, beside, group_nodes, node_references
from basisbench.circuits.steered_values import (
    SteeredValues,
    next_logits,
    steered_values,
    token_divergences,
    values_of_rows,
)

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

    from basisbench.circuits.group import GroupPair
    from basisbench.models.model import Model
    from basisbench.protocols import Basis
    from basisbench.types import Ablation, ErrorPolicy


@dataclass(frozen=True, eq=False)
class DoseResponse:
    """Sets of nodes moved by each of some doses.

    Attributes:
        model: the model.
        groups: the aligned groups of the task.
        basis: the basis.
        policy: along which axes coordinates of the error are nodes.
        ablation: what the reference is.
        operation: what a dose makes of a value.
        doses: the doses.
        at: where units are moved elsewhere.
    """

    model: Model
    groups: Sequence[GroupPair]
    basis: Basis
    policy: ErrorPolicy
    ablation: Ablation
    operation: Operation
    doses: tuple[float, ...]
    at: Literal["all", "last"]

    def on_task(
        self,
        nodes: Sequence[SteeredNode],
        controls: Sequence[Sequence[SteeredNode]],
        others: Sequence[Sequence[SteeredNode]],
    ) -> tuple[Float[Tensor, "set dose pair"], Float[Tensor, "set dose pair"]]:
        """Return metric and divergence of sets of nodes at each dose on all evaluation pairs of the task.

        Args:
            nodes: the first set.
            controls: for each draw a control for each node, which is moved by as much; the next sets.
            others: further sets, moved by the doses themselves.
        """
        found, sets = [], 1 + len(controls) + len(others)
        for group in self.groups:
            key, tokens = group.evaluation.pairs.group, group.evaluation.batch.clean
            own = self._moves(group, nodes)
            values = values_of_rows(self.model, self.basis, self.policy, own.nodes, tokens)
            moves = in_sequence(
                [
                    partial(_itself, own),
                    *(partial(moved_alike, own, values, beside(nodes, drawn, key)) for drawn in controls),
                    *(partial(self._moves, group, other) for other in others),
                ],
                len(self.doses),
            )
            found.append(steered_values(group, self.basis, self.policy, moves, sets * len(self.doses)))
        metric, nats = (values.unflatten(0, (sets, -1)) for values in _joined(found))
        return metric, nats

    def on_groups(
        self, groups: Sequence[GroupPair], nodes: Sequence[SteeredNode]
    ) -> tuple[Float[Tensor, "dose pair"], Float[Tensor, "dose pair"]]:
        """Return metric and divergence at each dose on the evaluation pairs of another task."""
        found = []
        for group in groups:
            own = group.evaluation.pairs
            moves = in_sequence(
                [partial(self._moves_elsewhere, nodes, own.length, own.first_position)], len(self.doses)
            )
            found.append(steered_values(group, self.basis, self.policy, moves, len(self.doses)))
        return _joined(found)

    def on_text(
        self,
        texts: Sequence[tuple[Int[Tensor, "_row _pos"], int]],
        nodes: Sequence[SteeredNode],
        controls: Sequence[Sequence[SteeredNode]],
    ) -> Float[Tensor, "set dose"]:
        """Return KL(unhooked model || steered) in nats per token, of each set of nodes at each dose.

        Args:
            texts: token ids, all rows of one of one length, and the first position that counts.
            nodes: the first set.
            controls: as for `on_task`; the next sets.
        """
        sums, weight, sets = [], 0, 1 + len(controls)
        for tokens, first in texts:
            own = self._moves_elsewhere(nodes, tokens.shape[1], first)
            values = values_of_rows(self.model, self.basis, self.policy, own.nodes, tokens)
            alike = []
            for drawn in controls:
                instead: dict[tuple[int, int], int] = {}
                for node, control in zip(nodes, drawn, strict=True):
                    instead.setdefault((node.index, node.unit), control.unit)
                other = tuple((index, position, instead[index, unit]) for index, position, unit in own.nodes)
                alike.append(partial(moved_alike, own, values, other))
            moves, cases = in_sequence([partial(_itself, own), *alike], len(self.doses)), sets * len(self.doses)
            nats = token_divergences(self.model, self.basis, self.policy, moves, cases, tokens, first)
            counted = tokens.shape[1] - first
            sums.append(nats.double().sum(1) * counted)
            weight += len(tokens) * counted
        found: Tensor = (sum(sums[1:], sums[0]) / weight).unflatten(0, (sets, -1))
        return found

    def on_prompt(
        self, ids: Sequence[int], first: int, nodes: Sequence[SteeredNode]
    ) -> tuple[Float[Tensor, "case vocab"], Float[Tensor, " case"]]:
        """Return the logits behind a prompt and their divergence, of the unhooked model and then at each dose.

        Args:
            ids: token ids.
            first: how many beginning-of-sequence tokens stand in front.
            nodes: the nodes.
        """
        import torch

        moves = self._moves_elsewhere(nodes, len(ids), first)
        full, steered = next_logits(self.model, self.basis, self.policy, moves, self.model.tokens([list(ids)]))
        logits = torch.cat([full, steered[:, 0]])
        return logits, kl_divergence(full, logits.unsqueeze(1))[:, 0]

    def _moves(self, group: GroupPair, nodes: Sequence[SteeredNode]) -> Moves:
        own = group_nodes(nodes, group.evaluation.pairs.group)
        return doses_of(self.operation, self.doses, own, self._references(group, own))

    def _references(self, group: GroupPair, nodes: Sequence[Node]) -> Float[Tensor, "row_or_1 node"]:
        """Return what nodes are when they are ablated; zeros where that is not asked."""
        if self.operation != "ablate" or not nodes:
            return self._zeros(len(nodes))
        return node_references(nodes, self.basis, self.policy, group.reference(self.basis, self.ablation))

    def _zeros(self, nodes: int) -> Float[Tensor, "1 node"]:
        import torch

        return torch.zeros(
            1, nodes, dtype=torch.promote_types(self.model.dtype, torch.float32), device=self.model.device
        )

    def _moves_elsewhere(self, nodes: Sequence[SteeredNode], length: int, first: int) -> Moves:
        units = tuple(dict.fromkeys((node.index, node.unit) for node in nodes))
        steered = range(min(first, length - 1) if self.at == "all" else length - 1, length)
        own = tuple((index, position, unit) for index, unit in units for position in steered)
        reference = self._zeros(len(own))
        if self.operation == "ablate":
            values = self._mean_references(nodes)
            reference[0] = reference.new_tensor([values[index, unit] for index, _, unit in own])
        return doses_of(self.operation, self.doses, own, reference)

    def _mean_references(self, nodes: Sequence[SteeredNode]) -> dict[tuple[int, int], float]:
        sums: dict[tuple[int, int], tuple[float, int]] = {}
        for group in self.groups:
            own = group_nodes(nodes, group.evaluation.pairs.group)
            weight = len(group.attribution.pairs)
            values = self._references(group, own).double().mean(0).tolist()
            for (index, _, unit), value in zip(own, values, strict=True):
                total, pairs = sums.get((index, unit), (0.0, 0))
                sums[index, unit] = total + value * weight, pairs + weight
        return {unit: total / pairs for unit, (total, pairs) in sums.items()}


def _itself(moves: Moves) -> Moves:
    return moves


def _joined(
    found: Sequence[SteeredValues],
) -> tuple[Float[Tensor, "case pair"], Float[Tensor, "case pair"]]:
    import torch

    return torch.cat([each.metric for each in found], 1), torch.cat([each.divergence for each in found], 1)
