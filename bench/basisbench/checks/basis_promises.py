"""The optional promises of a basis: some units alone (`part`), writes at later layers (`spread`), less memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, cast

from basisbench.checks.finding import Check, Finding, at_most, holds, information
from basisbench.checks.stage import BasisStage, row_difference, without_gradients
from basisbench.protocols import CrossLayerBasis, CrossLayerPart, StreamedBasis, UnitwiseBasis

if TYPE_CHECKING:
    from jaxtyping import Int
    from torch import Tensor

    from basisbench.protocols import Basis, BasisPart
    from basisbench.types import Site


def _parts(stage: BasisStage) -> Iterator[tuple[Site, Int[Tensor, " part"], BasisPart]]:
    """Yield parts of each site: the most active units, the first and the last, many; none where `part` gives None."""
    import torch

    basis = cast("UnitwiseBasis", stage.basis)
    generator = torch.Generator().manual_seed(0)
    for site in basis.sites:
        f = stage.encode(site, stage.read(site)).flatten(0, 1)
        units = f.shape[-1]
        active = f.abs().sum(0).argsort(descending=True)[:5].cpu()
        many = torch.randperm(units, generator=generator)[: units // 2]
        for chosen in (active, torch.tensor([0, units - 1]), many):
            part = basis.part(site, chosen.unique().to(f.device))
            if part is not None:
                yield site, chosen.unique().to(f.device), part


def _part(stage: BasisStage) -> Finding:
    import torch

    worst = dict.fromkeys(("encode", "decode", "project"), 0.0)

    def compare(member: str, found: Tensor, expected: Tensor, whole: Tensor) -> None:
        worst[member] = max(worst[member], row_difference(found, expected, whole))

    parts, generator = list(_parts(stage)), torch.Generator().manual_seed(1)
    for site, units, part in parts:
        x = stage.read(site)
        f = stage.encode(site, x)
        compare("encode", without_gradients(part.encode, x), f[..., units], f)
        some = f[..., units] + 0.1 * f.abs().max()  # units that are zero must be seen too
        alone = torch.zeros_like(f)
        alone[..., units] = some
        whole, nothing = stage.decode(site, alone), stage.decode(site, torch.zeros_like(f))
        compare("decode", without_gradients(part.decode, some), whole - nothing, whole)
        gradient = torch.randn(whole.shape, generator=generator, dtype=torch.float64).to(whole)
        products = (without_gradients(part.project, gradient) * some).sum(-1, keepdim=True)
        expected = (gradient * (whole - nothing)).sum(-1, keepdim=True)
        compare("project", products, expected, gradient.norm(dim=-1, keepdim=True) * whole.norm(dim=-1, keepdim=True))
        if isinstance(stage.basis, CrossLayerBasis):
            for to in stage.basis.sites[stage.basis.sites.index(site) :]:
                found = without_gradients(cast("CrossLayerPart", part).spread, some, to)
                expected = without_gradients(stage.basis.spread, site, alone, to)
                worst.setdefault("spread", 0.0)
                compare("spread", found, expected, expected)
    if not parts:
        return information("part() gives None: units depend on each other")
    shown = ", ".join(f"{member} {value:.3g}" for member, value in worst.items())
    held = all(value <= stage.rounding for value in worst.values())
    return holds(held, f"{len(parts)} parts; largest relative differences: {shown}", f"at most {stage.rounding:.3g}")


def _spread(stage: BasisStage) -> Finding:
    import torch

    basis, worst = cast("CrossLayerBasis", stage.basis), 0.0
    for index, site in enumerate(basis.sites):
        other = stage.encode(site, stage.read_others(site))
        f = stage.encode(site, stage.read(site))[: len(other)]
        own = stage.decode(site, f) - stage.decode(site, torch.zeros_like(f))
        for to in basis.sites[index:]:
            one, two, both = (
                without_gradients(basis.spread, site, each, to) for each in (f, other, 2.0 * f - 0.5 * other)
            )
            worst = max(worst, row_difference(both, 2.0 * one - 0.5 * two))
            worst = max(worst, row_difference(without_gradients(basis.spread, site, f[3, 1:2], to), one[3, 1:2]))
            if to == site:
                worst = max(worst, row_difference(one, own))
    return at_most(worst, stage.rounding, "largest relative departure")


def _streams(stage: BasisStage) -> Finding:
    """Hold that a basis that holds less in memory computes the same."""
    basis, worst = cast("StreamedBasis", stage.fresh()), 0.0
    if not isinstance(basis.streams, bool):
        return holds(False, f"streams is {basis.streams!r}", "True or False")
    less = basis.keep_less()
    for site in basis.sites:
        f = without_gradients(basis.encode, site, stage.read(site))
        worst = max(worst, row_difference(f, stage.encode(site, stage.read(site))))
        worst = max(worst, row_difference(without_gradients(basis.decode, site, f), stage.decode(site, f)))
    told = "after keep_less()" if less else "keep_less() gives False"
    return at_most(worst, stage.rounding / 100, f"{told}; largest relative difference")


PART: Check[BasisStage] = Check("part", "some units have the coordinates and writes that they have among all", _part)
SPREAD: Check[BasisStage] = Check(
    "spread", "what units write at later layers is linear, and at their own layer is decode less its bias", _spread
)
STREAMS: Check[BasisStage] = Check("streams", "what it computes does not depend on what is in memory", _streams)


def checks_of(basis: Basis) -> tuple[Check[BasisStage], ...]:
    """Return the checks of the promises that a basis makes."""
    promised = (PART, UnitwiseBasis), (SPREAD, CrossLayerBasis), (STREAMS, StreamedBasis)
    return tuple(check for check, protocol in promised if isinstance(basis, protocol))
