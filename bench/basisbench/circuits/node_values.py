"""What single nodes are on the prompts of one aligned group, and what they write there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from basisbench.attribution.direct_effect import Write
from basisbench.attribution.error_nodes import error_axes, from_nodes
from basisbench.protocols import CrossLayerBasis

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
    import torch

    errors = [error for error in sides if error is not None]
    if context.error_policy == "node":
        return [error.norm(dim=-1) for error in errors], {site.write: errors[0][:, position or 0]}
    axis = torch.zeros(errors[0].shape[-1], dtype=errors[0].dtype, device=errors[0].device)
    axis[node] = 1
    axes = error_axes(context.error_policy, site, errors[0])
    return [context.error_nodes(site, error)[..., node] for error in errors], {site.write: from_nodes(axis, axes)}


def unit_rows(
    basis: Basis, index: int, units: Sequence[int], like: Float[Tensor, "*b unit"]
) -> dict[int, dict[str, Float[Tensor, " d_write"]]]:
    """Return what one of each unit writes, by write hook: its decoder rows.

    Args:
        basis: a basis whose decoder is affine.
        index: of the units' site.
        units: the units.
        like: coordinates at the site, for their width, type and device.
    """
    distinct = sorted(set(units))
    if not distinct:
        return {}
    site = basis.sites[index]
    one = like.new_zeros(len(distinct) + 1, like.shape[-1])
    one[range(1, len(distinct) + 1), distinct] = 1
    decoded = basis.decode(site, one)
    rows = {site.write: decoded[1:] - decoded[:1]}
    if isinstance(basis, CrossLayerBasis):
        rows |= {later.write: basis.spread(site, one[1:], later) for later in basis.sites[index + 1 :]}
    return {unit: {hook: row[place] for hook, row in rows.items()} for place, unit in enumerate(distinct)}
