"""From a gradient field to node scores, for any basis with an affine decoder (DESIGN section 3)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from basisbench.protocols import UnitwiseBasis
from basisbench.types import Scores

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from basisbench.protocols import Basis, ScoringContext
    from basisbench.types import Site


_WIDE = 4096
"""Sites of fewer units are projected whole."""

_SPARSE = 1 / 16
"""Wide codes are projected unit by unit where at most this share of coordinates differs between the prompts."""


def project(basis: Basis, site: Site, gradient: Float[Tensor, "*b d_write"], units: int) -> Float[Tensor, "*b unit"]:
    """Return `<gradient, W_dec[i]>` for every unit i, as the vector-Jacobian product of the decoder.

    Args:
        basis: a basis whose decoder is affine, so that the product does not depend on where it is taken.
        site: one of its sites.
        gradient: gradient at the site's write hook.
        units: units at the site.
    """
    import torch

    with torch.enable_grad():
        coordinates = gradient.new_zeros((*gradient.shape[:-1], units), requires_grad=True)
        (product,) = torch.autograd.grad(basis.decode(site, coordinates), coordinates, gradient)
    return product


def site_scores(
    basis: Basis, site: Site, gradient: Float[Tensor, "pair pos d_write"], change: Float[Tensor, "pair pos unit"]
) -> Float[Tensor, "pos unit"]:
    """Return the mean over pairs of `<gradient, W_dec[i]> change_i`.

    A unit that is the same in both prompts of every pair scores zero whatever its product, so that a wide, sparse
    code needs few of the products.
    """
    import torch

    width = change.shape[-1]
    # On a device the count would have to be waited for.
    wide = width >= _WIDE and change.device.type == "cpu"
    if not wide or not isinstance(basis, UnitwiseBasis) or torch.count_nonzero(change) > _SPARSE * change.numel():
        return (project(basis, site, gradient, width) * change).mean(0)
    scores = change.new_zeros(change.shape[1:])
    differs = (change != 0).any(0)
    for position, here in enumerate(differs):
        units = here.nonzero().squeeze(-1)
        part = basis.part(site, units)
        if part is None:
            return (project(basis, site, gradient, width) * change).mean(0)
        scores[position, units] = (part.project(gradient[:, position]) * change[:, position, units]).mean(0)
    return scores


def projected_scores(context: ScoringContext, basis: Basis, rule: str) -> Scores:
    """Return gradient times difference of coordinates, averaged over pairs.

    score_i = mean over pairs of <g, W_dec[i]> (f_i(counterfactual) - f_i(clean)); for the error node
    <g, e(counterfactual) - e(clean)>. The sign is that of the metric's change, in logits.

    Args:
        context: the aligned group.
        basis: the basis to score.
        rule: the rule of the gradient field.
    """
    import torch

    units: list[Tensor] = []
    errors: list[Tensor] = []
    for site in basis.sites:
        gradient = context.gradient_field(rule, site)
        with torch.no_grad():
            clean, clean_error = context.coordinates(basis, site, "clean")
            other, other_error = context.coordinates(basis, site, "counterfactual")
            units.append(site_scores(basis, site, gradient, other - clean))
            if clean_error is not None and other_error is not None:
                errors.append((gradient * (other_error - clean_error)).sum(-1).mean(0))
    return Scores(tuple(units), None if basis.exact else tuple(errors))
