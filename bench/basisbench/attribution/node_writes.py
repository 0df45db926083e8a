"""What one more of a node's coordinate writes: decoder rows of units, axes of the error."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from basisbench.attribution.error_nodes import error_axes, from_nodes
from basisbench.protocols import CrossLayerBasis

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from basisbench.protocols import Basis
    from basisbench.types import ErrorPolicy, Site


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


def error_row(
    policy: ErrorPolicy, site: Site, node: int, like: Float[Tensor, "*b d_write"]
) -> Float[Tensor, " d_write"]:
    """Return what one of an error node writes at its site, where each coordinate of the error is a node.

    Args:
        policy: the error policy: in which axes coordinates are.
        site: the write site.
        node: which coordinate.
        like: an error or an activation at the site, for its width, type and device.
    """
    one = like.new_zeros(like.shape[-1])
    one[node] = 1
    return from_nodes(one, error_axes(policy, site, like))
