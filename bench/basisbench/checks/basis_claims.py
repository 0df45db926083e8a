"""What a basis says of itself: names, sites, shapes, types, exactness, bytes, fingerprint, and what it refuses."""

from __future__ import annotations

from typing import TYPE_CHECKING

from basisbench.checks.basis_functions import decoder, encoder
from basisbench.checks.finding import Check, Finding, at_most, holds, information, not_measured, nothing
from basisbench.checks.reachable import reachable_bytes
from basisbench.checks.stage import BasisStage, row_difference
from basisbench.errors import BasisBenchError
from basisbench.protocols import Basis, CrossLayerBasis
from basisbench.types import FAMILIES, Site

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

_SLACK = 2**16
"""Bytes that a basis may hold beside its weights, for tables and caches."""

_COPIES = 4
"""How many copies of its weights a basis may hold, for example packed ones."""


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
    if not isinstance(basis.exact, bool):
        found.append(f"exact is {basis.exact!r}")
    if basis.exact and isinstance(basis, CrossLayerBasis):
        found.append("it writes across layers and is exact")
    return nothing(found, "mistakes")


def _sites(stage: BasisStage) -> Finding:
    model, sites, found = stage.model, stage.basis.sites, list[str]()
    layers = [site.layer for site in sites]
    if not layers or layers != sorted(set(layers)):
        found.append(f"layers {layers} are not in order, one site each")
    if stage.spec.layers is not None and tuple(layers) != tuple(stage.spec.layers):
        found.append(f"layers {layers}, but its BasisSpec says {list(stage.spec.layers)}")
    if stage.spec.layers is None and layers != list(range(model.layers)):
        found.append(f"layers {layers} of {model.layers}, but its BasisSpec names no layers")
    for site in sites:
        for hook in (site.read, site.write):
            try:
                model.place(hook)
            except BasisBenchError as error:
                found.append(str(error))
            if not hook.startswith(f"blocks.{site.layer}."):
                found.append(f"{hook} is not in layer {site.layer}")
    return nothing(found, "mistakes")


def _shapes(stage: BasisStage) -> Finding:
    basis, found = stage.basis, list[str]()
    for site in basis.sites:
        x, width = stage.read(site), stage.activation(site.write).shape[-1]
        units = encoder(basis, site)(x).shape[-1]
        for part in (
            x,
            x[0, 0],
            x[0],
            x[:1, :1],
            x[:4].unsqueeze(1),
            x[:, 1:3].transpose(0, 1),
            x[:1].expand(3, -1, -1),
        ):
            f = encoder(basis, site)(part)
            y = decoder(basis, site)(f)
            batch = part.shape[:-1]
            if f.shape != (*batch, units) or y.shape != (*batch, width):
                found.append(f"{site.read}: {tuple(part.shape)} to {tuple(f.shape)} to {tuple(y.shape)}")
    return nothing(found, "wrong shapes")


def types_of(stage: BasisStage) -> Finding:
    """Hold that coordinates are not coarser than float32 and the model, unless they are the activation itself."""
    import torch

    wanted = torch.promote_types(stage.model.dtype, torch.float32)
    found, seen = [], set()
    for site in stage.basis.sites:
        x = stage.read(site)
        f = encoder(stage.basis, site)(x)
        y = decoder(stage.basis, site)(f)
        seen.add(str(f.dtype).removeprefix("torch."))
        untouched = f.dtype == x.dtype and f.shape == x.shape and f.equal(x)
        if f.dtype != wanted and not untouched:
            found.append(f"coordinates at {site.read} are {f.dtype}")
        if not (f.isfinite().all() and y.isfinite().all()):
            found.append(f"a value at {site.read} is not finite")
        if f.device != x.device or y.device != x.device:
            found.append(f"values at {site.read} are on {f.device} and {y.device}, activations on {x.device}")
    named = str(wanted).removeprefix("torch.")
    if found:
        return nothing(found, "mistakes")
    return holds(True, f"coordinates in {', '.join(sorted(seen))}", f"{named}, or the activation as it is")


def _exactness(stage: BasisStage) -> Finding:
    basis, worst, explained = stage.basis, 0.0, list[float]()
    for site in basis.sites:
        x = stage.read(site)
        y, f = stage.activation(site.write), encoder(basis, site)(x)
        written = decoder(basis, site)(f)
        if not basis.exact:
            rest = (y - written)[:, 1:].double().pow(2).sum()
            explained.append(float(1 - rest / (y - y.mean((0, 1)))[:, 1:].double().pow(2).sum()))
            continue
        for split, side in (("attribution", "clean"), ("evaluation", "counterfactual")):
            x = stage.read(site, split=split, side=side)  # type: ignore[arg-type]
            target = stage.activation(site.write, split=split, side=side)  # type: ignore[arg-type]
            result = decoder(basis, site)(encoder(basis, site)(x))
            worst = max(worst, row_difference(result, target.to(result.dtype), spare=False))
    if basis.exact:
        return at_most(worst, stage.rounding, "decode(encode(x)) differs from x by")
    shown = ", ".join(f"{share:.2f}" for share in explained[:8])
    alone = " by a layer's own units" if isinstance(basis, CrossLayerBasis) else ""
    return information(f"not exact; variance explained{alone}, per layer: {shown}")


def _state(stage: BasisStage) -> Finding:
    """Hold that a basis holds no more after it has encoded and decoded much than after it has done so once."""
    import torch

    basis = stage.basis
    inputs = [stage.read(site) for site in basis.sites]
    for site, x in zip(basis.sites, inputs, strict=True):
        for part in (x[:1, :1], x):
            decoder(basis, site)(encoder(basis, site)(part))
    before = reachable_bytes(basis, stage.model)
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        for site, x in zip(basis.sites, inputs, strict=True):
            noise = torch.randn((40, *x.shape[1:]), generator=generator, dtype=torch.float64).to(x)
            decoder(basis, site)(encoder(basis, site)(noise + x[:1]))
    grown = reachable_bytes(basis, stage.model) - before
    return at_most(grown, 64, "bytes held more than before:")


def _bytes(stage: BasisStage) -> Finding:
    declared = stage.basis.parameter_bytes
    if not isinstance(declared, int) or isinstance(declared, bool) or declared < 0:
        return holds(False, f"parameter_bytes is {declared!r}", "a whole number of bytes")
    held = reachable_bytes(stage.basis, stage.model)
    most = _COPIES * declared + _SLACK
    return holds(held <= most, f"{declared} bytes declared, {held} held", f"at most {most} held: {_COPIES} copies")


def _fingerprint(stage: BasisStage) -> Finding:
    basis = stage.basis
    if stage.spec.fit is not None:
        first, second = (getattr(each, "fingerprint", None) for each in (basis, stage.fresh()))
        same = isinstance(first, str) and first == second
        return holds(same, f"{first!r:.20}, fitted again {second!r:.20}", "the same text for the same data")
    first, second = (stage.spec.fingerprint(stage.model.spec) for _ in range(2))
    if first != second or not isinstance(first, str | None) or first == "":
        return holds(False, f"{first!r:.40}, then {second!r:.40}", "the same text or None")
    if first is None:
        told = f"None, with {basis.parameter_bytes} bytes of parameters"
        # What reconstructs exactly may be computed, as a rotation is; what does not was trained or fitted.
        trained = stage.rebuilds and not basis.exact and basis.parameter_bytes > 0
        return holds(False, told, "a digest of trained weights") if trained else information(told)
    return holds(True, f"{first[:12]}... twice", "the same text or None")


def _bad_input(stage: BasisStage) -> Finding:
    """Hold that a site it does not have and a width that does not fit are refused, not computed with."""
    basis, taken = stage.basis, []
    site = basis.sites[0]
    x = stage.read(site)
    f = encoder(basis, site)(x).clone()
    layer = stage.model.layers + 7
    foreign = Site(layer, f"blocks.{layer}.hook_nowhere", f"blocks.{layer}.hook_nowhere")
    wide, wide_units = x.new_ones(3, x.shape[-1] + 1), f.new_ones(3, f.shape[-1] + 1)
    for what, call in (
        ("encode at a site it does not have", lambda: encoder(basis, foreign)(x)),
        ("decode at a site it does not have", lambda: decoder(basis, foreign)(f)),
        ("encode of a wrong width", lambda: _unless_identity(encoder(basis, site)(wide), wide)),
        ("decode of a wrong width", lambda: _unless_identity(decoder(basis, site)(wide_units), wide_units)),
    ):
        try:
            call()
        except Exception:
            continue
        taken.append(what)
    return nothing(taken, "wrong inputs computed with")


def _unless_identity(result: Float[Tensor, "*b d"], argument: Float[Tensor, "*b d"]) -> None:
    """Count the argument itself as refused: the identity has no width of its own."""
    if result.shape == argument.shape and result.equal(argument):
        raise ValueError("the identity")


def _built_again(stage: BasisStage) -> Finding:
    """Hold that building twice gives the same basis."""
    if not stage.rebuilds:
        return not_measured("the basis was given built")
    basis, again = stage.basis, stage.fresh()
    same = tuple(basis.sites) == tuple(again.sites) and (basis.name, basis.exact) == (again.name, again.exact)
    return holds(same, "the same" if same else "different", "the same")


FIRST: tuple[Check[BasisStage], ...] = (
    Check("metadata", "name, family and summary are there and agree with its BasisSpec", _metadata),
    Check("sites", "sites are in layer order, at hooks where a module begins or ends", _sites),
    Check("built again", "building it again gives the same sites", _built_again),
    Check("shapes", "(*b, d_read) is encoded to (*b, unit) and decoded to (*b, d_write)", _shapes),
    Check("types", "coordinates are float32 or wider, finite, on the activation's device", types_of),
    Check("exact", "a basis that calls itself exact reconstructs the activation", _exactness),
    Check("bad input", "a site that it does not have and a width that does not fit raise an error", _bad_input),
)
"""Before the functions are looked at more closely."""

LAST: tuple[Check[BasisStage], ...] = (
    Check("state", "it keeps nothing of what it has encoded and decoded", _state),
    Check("bytes", "parameter_bytes accounts for the numbers that it holds", _bytes),
    Check("fingerprint", "weights that were trained or fitted have a fingerprint, the same every time", _fingerprint),
)
"""After everything else has been done with the basis."""
