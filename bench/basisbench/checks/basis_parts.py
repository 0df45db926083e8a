"""The optional promises of a basis: some units alone (`part`), and writes at later layers (`spread`)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, cast

from basisbench.checks.basis_functions import decoder, encoder
from basisbench.checks.finding import Check, Finding, at_most, information
from basisbench.checks.stage import BasisStage, row_difference
from basisbench.protocols import CrossLayerBasis, UnitwiseBasis

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

    from basisbench.protocols import Basis, BasisPart
    from basisbench.types import Site


def _parts(stage: BasisStage) -> Iterator[tuple[Site, Int[Tensor, " part"], BasisPart | None]]:
    """Yield parts of each site: one unit, a few, the first and the last, many."""
    import torch

    basis = cast("UnitwiseBasis", stage.basis)
    generator = torch.Generator().manual_seed(0)
    for site in basis.sites:
        with torch.no_grad():
            f = basis.encode(site, stage.read(site))
        units = f.shape[-1]
        active = f.flatten(0, 1).abs().sum(0).argsort(descending=True)[:5].sort().values
        choices = [active, torch.tensor([0, units - 1]).unique(), torch.tensor([units // 2])]
        for share in (0.1, 0.7):
            chosen = torch.randperm(units, generator=generator)[: max(1, int(share * units))]
            choices.append(chosen.sort().values)
        for chosen in choices:
            with torch.no_grad():
                yield site, chosen.to(f.device), basis.part(site, chosen.to(f.device))


def _part_encodes(stage: BasisStage) -> Finding:
    import torch

    worst, count = 0.0, 0
    for site, units, part in _parts(stage):
        if part is None:
            continue
        count += 1
        whole = encoder(stage.basis, site)
        for x in (stage.read(site), stage.read(site, split="evaluation", side="counterfactual")[:, 2]):
            f = whole(x)
            with torch.no_grad():
                found = part.encode(x)
            worst = max(worst, _beside(found, f[..., units], f))
    if not count:
        return information("part() gives None: units depend on each other")
    return at_most(worst, stage.rounding, f"{count} parts; largest relative difference")


def _part_decodes(stage: BasisStage) -> Finding:
    import torch

    worst = 0.0
    for site, units, part in _parts(stage):
        if part is None:
            continue
        decode = decoder(stage.basis, site)
        f = encoder(stage.basis, site)(stage.read(site)[:2])
        some = f[..., units] + 0.1 * f.abs().max()  # units that are zero must be seen too
        alone = torch.zeros_like(f)
        alone[..., units] = some
        expected = decode(alone) - decode(torch.zeros_like(f))
        with torch.no_grad():
            found = part.decode(some)
        worst = max(worst, _beside(found, expected, decode(alone)))
    return at_most(worst, stage.rounding, "largest relative difference")


def _part_projects(stage: BasisStage) -> Finding:
    import torch

    worst = 0.0
    generator = torch.Generator().manual_seed(1)
    for site, units, part in _parts(stage):
        if part is None:
            continue
        units = units[:64]
        narrow = cast("UnitwiseBasis", stage.basis).part(site, units)
        f = encoder(stage.basis, site)(stage.read(site)[0, 0])
        ones = torch.zeros((len(units), len(f)), dtype=f.dtype, device=f.device)
        ones[torch.arange(len(units)), units] = 1
        decode = decoder(stage.basis, site)
        rows = decode(ones) - decode(torch.zeros_like(ones))
        gradient = torch.randn((3, rows.shape[-1]), generator=generator, dtype=torch.float64).to(rows)
        if narrow is None:
            continue
        with torch.no_grad():
            found = narrow.project(gradient)
        expected = gradient @ rows.T
        worst = max(worst, _beside(found, expected, (gradient.norm(dim=-1) * rows.norm()).unsqueeze(-1)))
    return at_most(worst, stage.rounding, "largest relative difference from <g, W_dec>")


def _beside(found: Float[Tensor, "*b d"], expected: Float[Tensor, "*b d"], scale: Float[Tensor, "*b e"]) -> float:
    """Return the largest difference of a row, relative to the whole of which the row is a part."""
    if found.shape != expected.shape:
        return float("inf")
    size = scale.double().norm(dim=-1).clamp_min(1e-6 * float(scale.double().norm(dim=-1).max()) + 1e-30)
    relative = ((found.double() - expected.double()).norm(dim=-1) / size).flatten().sort().values
    # As in `row_difference`: a unit next to its threshold.
    left = len(relative) - (len(relative) // 100 if "64" not in str(found.dtype) else 0)
    return float(relative[left - 1])


def _spread(stage: BasisStage) -> Finding:
    basis = cast("CrossLayerBasis", stage.basis)
    import torch

    worst = 0.0
    for index, site in enumerate(basis.sites):
        with torch.no_grad():
            f = basis.encode(site, stage.read(site))
            other = basis.encode(site, stage.read(site, split="evaluation"))[: len(f)]
            own = basis.decode(site, f) - basis.decode(site, torch.zeros_like(f))
            for to in basis.sites[index:]:
                whole = basis.spread(site, f, to)
                if to == site:
                    worst = max(worst, row_difference(whole, own))
                small = len(other)
                mixed = basis.spread(site, 2.0 * f[:small] - 0.5 * other, to)
                expected = 2.0 * whole[:small] - 0.5 * basis.spread(site, other, to)
                worst = max(worst, row_difference(mixed, expected))
                worst = max(worst, row_difference(basis.spread(site, f[3, 1:2].clone(), to), whole[3, 1:2]))
                zero = basis.spread(site, torch.zeros_like(f[:1]), to)
                worst = max(worst, float(zero.abs().max() / whole.abs().max().clamp_min(1e-30)))
    return at_most(worst, stage.rounding, "largest relative departure")


def _part_spreads(stage: BasisStage) -> Finding:
    basis = cast("CrossLayerBasis", stage.basis)
    import torch

    worst = 0.0
    for site, units, part in _parts(stage):
        f = encoder(basis, site)(stage.read(site)[:2])
        alone = torch.zeros_like(f)
        alone[..., units] = f[..., units]
        for to in basis.sites[basis.sites.index(site) :]:
            with torch.no_grad():
                expected = basis.spread(site, alone, to)
                found = None if part is None else part.spread(f[..., units], to)  # type: ignore[attr-defined]
            if found is not None:
                with torch.no_grad():
                    worst = max(worst, _beside(found, expected, basis.spread(site, f, to)))
    return at_most(worst, stage.rounding, "largest relative difference")


_PART: tuple[Check[BasisStage], ...] = (
    Check("part: encode", "some units have the coordinates that they have among all", _part_encodes),
    Check("part: decode", "some units write what they write among all, without the bias", _part_decodes),
    Check("part: project", "some units have the product of a gradient with their decoder rows", _part_projects),
)
_SPREAD: tuple[Check[BasisStage], ...] = (
    Check(
        "spread", "what units write at later layers is linear, and at their own layer is decode less its bias", _spread
    ),
)
_BOTH: tuple[Check[BasisStage], ...] = (
    Check("part: spread", "some units write at later layers what they write there among all", _part_spreads),
)
CHECKS = (*_PART, *_SPREAD, *_BOTH)
"""In the order of the report."""


def checks_of(basis: Basis) -> tuple[Check[BasisStage], ...]:
    """Return the checks of the promises that a basis makes."""
    unitwise, across = isinstance(basis, UnitwiseBasis), isinstance(basis, CrossLayerBasis)
    return (_PART if unitwise else ()) + (_SPREAD if across else ()) + (_BOTH if unitwise and across else ())
