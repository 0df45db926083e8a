"""From a gradient field to node scores, for any basis with an affine decoder (DESIGN section 3)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from basisbench.types import Scores

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from basisbench.protocols import Basis, ScoringContext
    from basisbench.types import Site


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
            product = project(basis, site, gradient, clean.shape[-1])
            units.append((product * (other - clean)).mean(0))
            if clean_error is not None and other_error is not None:
                errors.append((gradient * (other_error - clean_error)).sum(-1).mean(0))
    return Scores(tuple(units), None if basis.exact else tuple(errors))
