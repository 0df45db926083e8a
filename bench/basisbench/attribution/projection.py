"""From a gradient field to node scores, for any basis with an affine decoder (docs/numbers.md)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Literal, TypeAlias

from basisbench.models.model import at_least_float32
from basisbench.protocols import CrossLayerBasis, UnitwiseBasis
from basisbench.types import WITHOUT_ERROR_NODES, BackwardRules, Scores

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
    return _vector_jacobian(lambda f: basis.decode(site, f), gradient, units)


def project_across(
    basis: CrossLayerBasis, site: Site, gradients: Mapping[Site, Float[Tensor, "*b d_write"]], units: int
) -> Float[Tensor, "*b unit"]:
    """Return the sum over sites m of `<gradient at m, W_dec[site -> m][i]>` for every unit i.

    Args:
        basis: a basis that writes to several sites.
        site: one of its sites.
        gradients: gradient at the write hook of this site and of every later one.
        units: units at the site.
    """
    products = [
        _vector_jacobian(lambda f, to=target: basis.spread(site, f, to), gradient, units)  # type: ignore[misc]
        for target, gradient in gradients.items()
    ]
    return sum(products[1:], products[0])


def _vector_jacobian(
    written: Callable[[Tensor], Tensor], gradient: Float[Tensor, "*b d_write"], units: int
) -> Float[Tensor, "*b unit"]:
    import torch

    with torch.enable_grad():
        coordinates = gradient.new_zeros((*gradient.shape[:-1], units), requires_grad=True)
        output = written(coordinates)
        (product,) = torch.autograd.grad(output, coordinates, gradient.to(output.dtype))
    return product


def site_scores(
    basis: Basis, site: Site, gradient: Float[Tensor, "pair pos d_write"], change: Float[Tensor, "pair pos unit"]
) -> Float[Tensor, "pos unit"]:
    """Return the mean over pairs of `<gradient, W_dec[i]> change_i`.

    A unit that is the same in both prompts of every pair scores zero whatever its product, so that a wide, sparse
    code needs few of the products. Products are taken in the type of the coordinates, sums in float32 at least.
    """
    import torch

    width, gradient = change.shape[-1], gradient.to(change.dtype)

    def mean_score(product: Tensor, change: Tensor) -> Tensor:
        return (at_least_float32(product) * at_least_float32(change)).mean(0)

    # On a device the count would have to be waited for.
    wide = width >= _WIDE and change.device.type == "cpu"
    if not wide or not isinstance(basis, UnitwiseBasis) or torch.count_nonzero(change) > _SPARSE * change.numel():
        return mean_score(project(basis, site, gradient, width), change)
    scores = at_least_float32(change.new_zeros(change.shape[1:]))
    differs = (change != 0).any(0)
    for position, here in enumerate(differs):
        units = here.nonzero().squeeze(-1)
        part = basis.part(site, units)
        if part is None:
            return mean_score(project(basis, site, gradient, width), change)
        scores[position, units] = mean_score(part.project(gradient[:, position]), change[:, position, units])
    return scores


Target: TypeAlias = Literal["target", "counterfactual", "reference", "zero"]
"""Where a node moves: to the cell's target, to its counterfactual value, to the cell's reference value, to zero."""


def projected_scores(
    context: ScoringContext,
    basis: Basis,
    gradients: str | BackwardRules | Mapping[str, Float[Tensor, "pair pos d_write"]],
    *,
    to: Target = "target",
) -> Scores:
    """Return gradient times difference of coordinates, averaged over pairs.

    score_i = mean over pairs of <g, W_dec[i]> (f_i(target) - f_i(clean)); for coordinate j of the error
    g_j (e_j(target) - e_j(clean)), and the sum of these where the whole error is one node. The sign is that of the
    metric's change, in logits. A unit that writes to several sites has a product with the gradient at each of them; its
    score is their sum.

    Args:
        context: the aligned group.
        basis: the basis to score; its decoder is affine.
        gradients: the rule or the backward rules of a shared gradient field, or gradients by write hook
            (`context.gradients`).
        to: where a node moves; by default where the cell's scores ask it to.
    """
    import torch

    as_nodes = context.error_policy not in WITHOUT_ERROR_NODES

    def field(site: Site) -> Tensor:
        if isinstance(gradients, str | BackwardRules):
            return context.gradient_field(gradients, site)
        return gradients[site.write]

    units: list[Tensor] = []
    errors: list[Tensor] = []
    for index, site in enumerate(basis.sites):
        gradient = field(site)
        with torch.no_grad():
            clean, clean_error = context.coordinates(basis, site, "clean")
            other, other_error = _moved(context, basis, site, to)
            change = other - clean
            error_change = None if clean_error is None or other_error is None else other_error - clean_error
            if isinstance(basis, CrossLayerBasis):
                later = basis.sites[index:]
                fields = {target: field(target).to(change.dtype) for target in later}
                units.append((project_across(basis, site, fields, change.shape[-1]) * change).mean(0))
            elif len(other) == 1 < len(clean) and change.shape[-1] >= _WIDE:
                # Both terms are few units of a wide code each; their difference is not.
                mean = gradient.mean(0, keepdim=True)
                units.append(site_scores(basis, site, mean, other) - site_scores(basis, site, gradient, clean))
            else:
                units.append(site_scores(basis, site, gradient, change))
            if error_change is not None and as_nodes:
                products = context.error_nodes(site, at_least_float32(gradient)) * context.error_nodes(
                    site, at_least_float32(error_change)
                )
                mean = products.mean(0)
                errors.append(mean.sum(-1, keepdim=True) if context.error_policy == "node" else mean)
    return Scores(tuple(units), tuple(errors) if as_nodes and not basis.exact else None)


def _moved(
    context: ScoringContext, basis: Basis, site: Site, to: Target
) -> tuple[Float[Tensor, "pair_or_1 pos unit"], Float[Tensor, "pair_or_1 pos d_write"] | None]:
    """Return the coordinates and the error that nodes move to."""
    if to == "target":
        return context.target(basis, site)
    if to == "reference":
        return context.reference(basis, site)
    units, error = context.coordinates(basis, site, "counterfactual")
    if to == "counterfactual":
        return units, error
    return units.new_zeros(units[:1].shape), None if error is None else error.new_zeros(error[:1].shape)
