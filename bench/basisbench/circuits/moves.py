"""What doses make of nodes: in each of several cases, a value f becomes factor * f + offset."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from basisbench.errors import BasisBenchError
from basisbench.models.model import at_least_float32

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

Operation = Literal["scale", "set", "add", "ablate"]
"""What a dose d makes of a value f: d f; d; f + d; f + d (reference - f), so that 1 is the reference."""

Node: TypeAlias = tuple[int, int, int]
"""Index of the site, position, unit; unit -1 - j is node j of the error."""

UNCHANGED: dict[Operation, float | None] = {"scale": 1.0, "set": None, "add": 0.0, "ablate": 0.0}
"""The dose that changes nothing."""


def refuse_policy(command: str, policy: str) -> None:
    """Refuse an error policy under which coordinates of the error cannot be moved, everything else being live.

    Args:
        command: what was asked for, for the message.
        policy: the error policy.

    Raises:
        BasisBenchError: the whole error is one node, or is always ablated.
    """
    if policy in ("node", "ablate"):
        raise BasisBenchError(
            f"{command}: under the error policy '{policy}' what a basis leaves out is no live nodes of one coordinate "
            "each; choose coordinates, rotated or keep"
        )


@dataclass(frozen=True, eq=False)
class Moves:
    """What becomes of some nodes in several cases: the value f becomes factor * f + offset.

    Attributes:
        nodes: the nodes of all cases; those of one site, position and unit are moved one after the other.
        factor: 1 where a case leaves a node alone.
        offset: 0 there; the row axis is 1 where all rows have the same.
    """

    nodes: tuple[Node, ...]
    factor: Float[Tensor, "case node"]
    offset: Float[Tensor, "case row_or_1 node"]

    def rows(self, chosen: slice) -> Moves:
        """Return the same for some of the rows."""
        return self if self.offset.shape[1] == 1 else Moves(self.nodes, self.factor, self.offset[:, chosen])


def doses_of(
    operation: Operation, doses: Sequence[float], nodes: Sequence[Node], reference: Float[Tensor, "row_or_1 node"]
) -> Moves:
    """Return a case for each dose, in which all nodes are moved by it.

    Args:
        operation: what a dose makes of a value.
        doses: the doses.
        nodes: distinct nodes.
        reference: where each is when it is ablated.
    """
    wide = at_least_float32(reference)
    dose = wide.new_tensor(list(doses)).view(-1, 1)
    every = dose.expand(-1, len(nodes))
    nothing = every.new_zeros(every.shape)
    factor = {"scale": every, "set": nothing, "add": nothing + 1, "ablate": 1 - every}[operation]
    offset = nothing.unsqueeze(1) if operation == "scale" else every.unsqueeze(1)
    return Moves(tuple(nodes), factor, offset * wide if operation == "ablate" else offset)


def moved_alike(moves: Moves, values: Float[Tensor, "row node"], others: Sequence[Node]) -> Moves:
    """Return the moves of other nodes by as much, row by row, as some nodes are moved off given values.

    Args:
        moves: of the nodes.
        values: what they are in the unhooked model.
        others: for each node another, all distinct.
    """
    by_case = (moves.factor - 1).unsqueeze(1) * values + moves.offset
    return Moves(tuple(others), moves.factor.new_ones(moves.factor.shape), by_case)


def joined(parts: Sequence[Moves]) -> Moves:
    """Return the cases of several moves, in order; nodes of another's are left alone."""
    import torch

    nodes = tuple(dict.fromkeys(node for part in parts for node in part.nodes))
    column = {node: place for place, node in enumerate(nodes)}
    rows = max(part.offset.shape[1] for part in parts)
    factors, offsets = [], []
    for part in parts:
        own = [column[node] for node in part.nodes]
        factor = part.factor.new_ones(len(part.factor), len(nodes))
        offset = part.offset.new_zeros(len(part.factor), rows, len(nodes))
        factor[:, own], offset[:, :, own] = part.factor, part.offset
        factors.append(factor)
        offsets.append(offset)
    return Moves(nodes, torch.cat(factors), torch.cat(offsets))


def in_sequence(sets: Sequence[Callable[[], Moves]], each: int) -> Callable[[slice], Moves]:
    """Return what gives some of the cases of several moves, which are numbered one after the other.

    Args:
        sets: give the moves, when they are needed: together they may be large.
        each: cases of each.
    """

    def cases(chosen: slice) -> Moves:
        parts = []
        for place in range(chosen.start // each, -(-chosen.stop // each)):
            own = slice(max(chosen.start - place * each, 0), min(chosen.stop - place * each, each))
            moves = sets[place]()
            parts.append(Moves(moves.nodes, moves.factor[own], moves.offset[own]))
        return joined(parts) if len(parts) > 1 else parts[0]

    return cases
