"""What single nodes are on the prompts of one aligned group, and what they write there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from basisbench.attribution.direct_effect import Write
from basisbench.attribution.node_writes import error_row, unit_rows

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from basisbench.attribution.context import GroupContext
    from basisbench.protocols import Basis
    from basisbench.types import Site


@dataclass(frozen=True, eq=False)
class NodeValues:
    """A node in one aligned group.

    Attributes:
        clean: its value at every position of the clean prompts; of a whole error its length.
        counterfactual: the same of the counterfactual prompts.
        write: what one more of it writes at the node's position, of a whole error what it is in the clean run; None
            where the group has no such position.
    """

    clean: Float[Tensor, "pair pos"]
    counterfactual: Float[Tensor, "pair pos"]
    write: Write | None

    @property
    def change(self) -> Float[Tensor, "pair pos"]:
        """|clean - counterfactual|."""
        return (self.clean - self.counterfactual).abs()


def node_values(
    context: GroupContext, basis: Basis, nodes: Sequence[tuple[int, int | None, int]]
) -> Iterator[tuple[int, NodeValues]]:
    """Yield (place in `nodes`, values) for nodes, site by site.

    Args:
        context: the aligned group, at a cell (`GroupContext.start`).
        basis: the basis.
        nodes: (site index, position or None, unit), the unit as in `Ranking.top`: -1 - j for node j of the error.
    """
    order = sorted(range(len(nodes)), key=lambda place: nodes[place][0])
    for index, own in groupby(order, key=lambda place: nodes[place][0]):
        here = list(own)
        yield from zip(here, _at_site(context, basis, index, [nodes[place][1:] for place in here]), strict=True)


def _at_site(
    context: GroupContext, basis: Basis, index: int, nodes: Sequence[tuple[int | None, int]]
) -> Iterator[NodeValues]:
    import torch

    site = basis.sites[index]
    with torch.no_grad():
        sides = [
            context.coordinates(basis, site, "clean"),
            context.coordinates(basis, site, "counterfactual"),
        ]
        rows = unit_rows(basis, index, [unit for _, unit in nodes if unit >= 0], sides[0][0])
        for position, unit in nodes:
            if unit >= 0:
                values = [units[..., unit] for units, _ in sides]
                one: Mapping[str, Tensor] = rows[unit]
            else:
                values, one = _error(context, site, [error for _, error in sides], -1 - unit, position)
            yield NodeValues(values[0], values[1], None if position is None else Write(position, one))


def _error(
    context: GroupContext, site: Site, sides: Sequence[Tensor | None], node: int, position: int | None
) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Return an error node's values on clean and counterfactual prompts, and what one of it writes."""
    errors = [error for error in sides if error is not None]
    if context.error_policy == "node":
        return [error.norm(dim=-1) for error in errors], {site.write: errors[0][:, position or 0]}
    row = error_row(context.error_policy, site, node, errors[0])
    return [context.error_nodes(site, error)[..., node] for error in errors], {site.write: row}
