"""What a basis says of itself: names, sites, shapes, types, exactness, fingerprint, and what it refuses."""

from __future__ import annotations

from typing import TYPE_CHECKING

from basisbench.attribution.fit import USELESS_FVU, fit_of_layers
from basisbench.checks.finding import Check, Finding, at_most, holds, information, nothing
from basisbench.checks.stage import BasisStage, row_difference
from basisbench.errors import BasisBenchError
from basisbench.protocols import Basis, CrossLayerBasis
from basisbench.types import FAMILIES, Site

if TYPE_CHECKING:
    from torch import Tensor


def complaints(name: object, summary: object) -> list[str]:
    """Return what is wrong with a name and a summary."""
    found = []
    if not isinstance(name, str) or not name or name != name.strip() or len(name) > 200:
        found.append(f"the name is {name!r}")
    if not isinstance(summary, str) or not summary.strip() or "\n" in summary or len(summary) > 120:
        found.append(f"the summary is {summary!r:.40}, not one line of at most 120 characters")
    return found


def _metadata(stage: BasisStage) -> Finding:
    spec, basis = stage.spec, stage.basis
    found = complaints(basis.name, spec.summary)
    if not isinstance(basis, Basis):
        found.append("it lacks a member of basisbench.protocols.Basis")
    if basis.name != spec.name:
        found.append(f"it calls itself '{basis.name}', its BasisSpec '{spec.name}'")
    if basis.family != spec.family or basis.family not in FAMILIES:
        found.append(f"its family is '{basis.family}', that of its BasisSpec '{spec.family}'")
    if not isinstance(basis.exact, bool) or (basis.exact and isinstance(basis, CrossLayerBasis)):
        found.append(f"exact is {basis.exact!r}")
    elif basis.exact != spec.exact:
        found.append(
            f"it calls itself {'exact' if basis.exact else 'not exact'}, its BasisSpec says exact={spec.exact}"
        )
    if not isinstance(basis.parameter_bytes, int) or basis.parameter_bytes < 0:
        found.append(f"parameter_bytes is {basis.parameter_bytes!r}, not a number of bytes")
    return nothing(found, "mistakes")


def _sites(stage: BasisStage) -> Finding:
    sites, found = stage.basis.sites, list[str]()
    layers = [site.layer for site in sites]
    expected = range(stage.model.layers) if stage.spec.layers is None else stage.spec.layers
    if layers != sorted(expected) or not layers:
        found.append(f"layers {layers}; its BasisSpec says {list(expected)}, in order, one site each")
    for site in sites:
        for hook in (site.read, site.write):
            try:
                stage.model.place(hook)
            except BasisBenchError as error:
                found.append(str(error))
            if not hook.startswith(f"blocks.{site.layer}."):
                found.append(f"{hook} is not in layer {site.layer}")
    if list(stage.fresh().sites) != list(sites):
        found.append("built again it has other sites")
    return nothing(found, "mistakes")


def _shapes(stage: BasisStage) -> Finding:
    basis, found = stage.basis, list[str]()
    for site in basis.sites:
        x, width = stage.read(site), stage.activation(site.write).shape[-1]
        units = stage.encode(site, x).shape[-1]
        for part in (x, x[0, 0], x[0], x[:1, :1], x[:4].unsqueeze(1), x.transpose(0, 1)):
            f = stage.encode(site, part)
            y = stage.decode(site, f)
            if f.shape != (*part.shape[:-1], units) or y.shape != (*part.shape[:-1], width):
                found.append(f"{site.read}: {tuple(part.shape)} to {tuple(f.shape)} to {tuple(y.shape)}")
    return nothing(found, "wrong shapes")


def _types(stage: BasisStage) -> Finding:
    """Hold that coordinates are not coarser than float32 and the model, unless they are the activation itself."""
    import torch

    wanted = torch.promote_types(stage.model.dtype, torch.float32)
    found, seen = list[str](), set[str]()
    for site in stage.basis.sites:
        x = stage.read(site)
        f = stage.basis.encode(site, x)
        y = stage.basis.decode(site, f)
        seen.add(str(f.dtype).removeprefix("torch."))
        if f.dtype != wanted and not (f.dtype == x.dtype and f.shape == x.shape and f.equal(x)):
            found.append(f"coordinates at {site.read} are {f.dtype}")
        if not (f.isfinite().all() and y.isfinite().all()):
            found.append(f"a value at {site.read} is not finite")
        if f.device != x.device or y.device != x.device:
            found.append(f"values at {site.read} are on {f.device} and {y.device}, activations on {x.device}")
        if f.requires_grad or y.requires_grad:
            found.append(f"values at {site.read} require a gradient")
    if found:
        return nothing(found, "mistakes")
    named = str(wanted).removeprefix("torch.")
    return holds(True, f"coordinates in {', '.join(sorted(seen))}", f"{named}, or the activation as it is")


def _exactness(stage: BasisStage) -> Finding:
    if not stage.basis.exact:
        return _fit(stage)
    worst = 0.0
    for site in stage.basis.sites:
        y, written = stage.activation(site.write), stage.decode(site, stage.encode(site, stage.read(site)))
        worst = max(worst, row_difference(written.double(), y.to(written.dtype).double()))
    return at_most(worst, stage.rounding, "decode(encode(x)) differs from x by")


def _fit(stage: BasisStage) -> Finding:
    """Tell the fit on the prompts at hand, per layer; what is asked of it is asked of a cell, on its own prompts."""
    found = fit_of_layers(stage.basis, [stage.group.attribution])
    fvu, slopes = (", ".join(f"{value:.2f}" for value in row[:8]) for row in (
        [each.fvu for each in found], [each.slope for each in found]
    ))  # fmt: skip
    refused = max(each.fvu for each in found) >= USELESS_FVU and not stage.spec.control
    told = "; cells are refused: FVU is not below 1" if refused else ""
    return information(f"not exact{told}; FVU per layer {fvu}; calibration slope {slopes}")


def _fingerprint(stage: BasisStage) -> Finding:
    basis = stage.basis
    if stage.spec.fit is not None:
        first, second = (getattr(each, "fingerprint", None) for each in (basis, stage.fresh()))
        same = isinstance(first, str) and first == second
        return holds(same, f"{first!r:.14}, fitted again {second!r:.14}", "the same text for the same data")
    first, second = (stage.spec.fingerprint(stage.model.spec) for _ in range(2))
    if first is None and second is None:
        told = f"None, with {basis.parameter_bytes} bytes of parameters"
        # What reconstructs exactly may be computed, as a rotation is; what does not was trained or fitted.
        trained = stage.rebuilds and not basis.exact and basis.parameter_bytes > 0
        return holds(False, told, "a digest of trained weights") if trained else information(told)
    same = isinstance(first, str) and first != "" and first == second
    return holds(same, f"{first!r:.14}, then {second!r:.14}", "the same text or None")


def _bad_input(stage: BasisStage) -> Finding:
    """Hold that a site it does not have and a width that does not fit are refused, not computed with."""
    site, layer = stage.basis.sites[0], stage.model.layers + 7
    x = stage.read(site)
    f = stage.encode(site, x).clone()
    foreign = Site(layer, f"blocks.{layer}.hook_nowhere", f"blocks.{layer}.hook_nowhere")
    wide, wide_units = x.new_ones(3, x.shape[-1] + 1), f.new_ones(3, f.shape[-1] + 1)
    taken = []
    for what, function, where, argument in (
        ("encode at a site it does not have", stage.encode, foreign, x),
        ("decode at a site it does not have", stage.decode, foreign, f),
        ("encode of a wrong width", stage.encode, site, wide),
        ("decode of a wrong width", stage.decode, site, wide_units),
    ):
        try:
            result: Tensor = function(where, argument)
        except Exception:
            continue
        if where is foreign or result.shape != argument.shape or not result.equal(argument):
            taken.append(what)  # the identity alone has no width of its own
    return nothing(taken, "wrong inputs computed with")


IN_EVERY_TYPE: tuple[Check[BasisStage], ...] = (
    Check("types", "values are finite, coordinates float32 or wider, on the activation's device", _types),
    Check("exact", "a basis that calls itself exact reconstructs the activation", _exactness),
)
CHECKS: tuple[Check[BasisStage], ...] = (
    Check("metadata", "name, family and summary are there and agree with its BasisSpec", _metadata),
    Check("sites", "sites are in layer order, at hooks where a module begins or ends, in every build", _sites),
    Check("shapes", "(*b, d_read) is encoded to (*b, unit) and decoded to (*b, d_write)", _shapes),
    *IN_EVERY_TYPE,
    Check("fingerprint", "weights that were trained or fitted have a fingerprint, the same every time", _fingerprint),
    Check("bad input", "a site that it does not have and a width that does not fit raise an error", _bad_input),
)
"""In the order of the report."""
