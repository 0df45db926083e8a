"""Controls of a basis: what of its result would another have that lacks what it is praised for?

1. `permuted:NAME`: the dictionary NAME, each unit writing what another one should: same codes, same rows, in disorder.
2. `random:NAME`: random directions, as many as NAME has units and as many active at a time, calibrated on the task's
   prompts: what any overcomplete sparse code of that size does, untrained. A ReLU behind a threshold, which does not
   jump: of so many random values some always lie where rounding would tell whether they are on.
3. `rotated:NAME`: the space of the neurons NAME under a fixed random rotation: what the space does without its axes.
   `mlp_act_rotated` is `rotated:mlp_act`, in a module of its own.
4. `pca:NAME`: the principal axes of the neurons NAME on the task's prompts: what sorted variance does without neurons.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from basisbench.attribution.error_nodes import random_rotation
from basisbench.attribution.fitting import weights_digest
from basisbench.errors import BasisError
from basisbench.plugin_code import code_digest
from basisbench.protocols import BasisScheme, BasisSpec, CrossLayerBasis, training_of
from basisbench_baselines.bases.rotation import RotatedActivations
from basisbench_baselines.dictionaries.placement import hook_width

if TYPE_CHECKING:
    import torch
    from jaxtyping import Float, Int
    from torch import Tensor

    from basisbench.models.model import Model
    from basisbench.protocols import Activations, Basis, BasisPart
    from basisbench.types import Family, Site

SEED = 0


def permutation(units: int, site: int) -> Int[Tensor, " unit"]:
    """Return the permutation of a site, by its place: unit i writes what unit `permutation[i]` of the basis would."""
    import torch

    return torch.randperm(units, generator=torch.Generator().manual_seed(SEED + site))


class PermutedPart:
    """Some units of a permuted basis.

    Args:
        reading: the same units of the basis, which encode.
        writing: the units of the basis that write for them.
    """

    def __init__(self, reading: Any, writing: Any) -> None:
        self.encode, self.decode, self.project = reading.encode, writing.decode, writing.project
        if hasattr(writing, "spread"):
            self.spread = writing.spread


class Permuted:
    """A basis whose units write in disorder; what else the basis promises, this one promises too.

    Args:
        name: its name.
        basis: the basis.
    """

    exact = False

    def __init__(self, name: str, basis: Basis) -> None:
        self.name, self.family, self.sites = name, basis.family, basis.sites
        self.parameter_bytes, self.trained = basis.parameter_bytes, training_of(basis)
        self.sources: Mapping[str, str] = getattr(basis, "sources", {})
        self._basis = basis
        self._orders: dict[Site, tuple[Tensor, Tensor]] = {}  # by unit, who writes for it; for whom it writes
        for promise, own in (("part", self._part), ("spread", self._spread)):
            if hasattr(basis, promise):
                setattr(self, promise, own)

    def encode(self, site: Site, x: Float[Tensor, "*b d_read"]) -> Float[Tensor, "*b unit"]:
        """Return the coordinates of the basis."""
        f = self._basis.encode(site, x)
        if site not in self._orders:
            order = permutation(f.shape[-1], self.sites.index(site)).to(f.device)
            self._orders[site] = order, order.argsort()
        return f

    def _from(self, site: Site, f: Float[Tensor, "*b unit"]) -> Float[Tensor, "*b unit"]:
        """Return a code in the basis's own order: each unit gets what the one that writes for it has."""
        units = f.shape[-1]
        readers = (
            self._orders[site][1] if site in self._orders else permutation(units, self.sites.index(site)).argsort()
        )
        if len(readers) != units:
            raise BasisError(f"basis '{self.name}': a code of {units} units; expected {len(readers)}")
        return f[..., readers.to(f.device)]

    def decode(self, site: Site, f: Float[Tensor, "*b unit"]) -> Float[Tensor, "*b d_write"]:
        """Return the reconstruction at the write hook."""
        return self._basis.decode(site, self._from(site, f))

    def _spread(self, site: Site, f: Float[Tensor, "*b unit"], to: Site) -> Float[Tensor, "*b d_write"]:
        found: Tensor = self._basis.spread(site, self._from(site, f), to)  # type: ignore[attr-defined] # asked for in __init__
        return found

    def _part(self, site: Site, units: Int[Tensor, " part"]) -> BasisPart | None:
        if site not in self._orders:  # how many units there are, only a code tells
            return None
        parts = [self._basis.part(site, each) for each in (units, self._orders[site][0][units])]  # type: ignore[attr-defined]
        return None if None in parts else PermutedPart(*parts)


@dataclass(frozen=True, eq=False)
class RandomDictionary:
    """Random directions with a threshold: f = ReLU(W_enc (x - mean) - threshold), and its reconstruction.

    Attributes:
        name: its name.
        family: its site family.
        sites: where it reads and writes.
        weights: by site: mean of what is read (d_read), W_enc (unit, d_read), threshold (), W_dec (unit, d_write), bias
            of what is written (d_write).
    """

    name: str
    family: Family
    sites: Sequence[Site]
    weights: Mapping[Site, Sequence[Tensor]]
    exact: bool = False

    @property
    def fingerprint(self) -> str:
        """Digest of the weights."""
        return weights_digest(each for site in self.sites for each in self.weights[site])

    @property
    def parameter_bytes(self) -> int:
        """Bytes of the weights."""
        return sum(each.nbytes for weights in self.weights.values() for each in weights)

    def encode(self, site: Site, x: Float[Tensor, "*b d_read"]) -> Float[Tensor, "*b unit"]:
        """Return the activations."""
        mean, encoder, threshold, *_ = self.weights[site]
        return ((x.to(mean.dtype) - mean) @ encoder.T - threshold).clamp_min(0)

    def decode(self, site: Site, f: Float[Tensor, "*b unit"]) -> Float[Tensor, "*b d_write"]:
        """Return the reconstruction at the write hook."""
        *_, decoder, bias = self.weights[site]
        return f @ decoder + bias


def fit_random(inner: BasisSpec, name: str, model: Model, activations: Activations) -> RandomDictionary:
    """Draw a random dictionary of a basis's size, and fit how sparse it is and how much it writes.

    Raises:
        BasisError: the basis cannot be built, reconstructs exactly, or writes to several layers.
    """
    import torch

    basis = _built(inner, model, activations)
    if isinstance(basis, CrossLayerBasis):
        raise BasisError(
            f"basis '{name}': '{inner.name}' writes to several layers; give a dictionary of one layer each"
        )
    dtype = torch.promote_types(model.dtype, torch.float32)
    weights: dict[Site, Sequence[Tensor]] = {}
    for place, site in enumerate(basis.sites):
        rows = (activations(hook, first=training_of(basis).first_position) for hook in (site.read, site.write))
        x, y = (torch.cat(list(each)).to(dtype) for each in rows)
        with torch.no_grad():
            codes = basis.encode(site, x)
        draw = torch.Generator().manual_seed(SEED + place)
        encoder = _directions(codes.shape[-1], x.shape[1], draw).to(x)
        decoder = encoder if site.read == site.write else _directions(codes.shape[-1], y.shape[1], draw).to(y)
        mean = x.mean(0)
        before = (x - mean) @ encoder.T
        active = max(1, int((codes != 0).sum()))
        threshold = before.flatten().topk(min(active + 1, before.numel())).values[-1].clamp_min(0)
        written = (before - threshold).clamp_min(0) @ decoder
        centred = (written - written.mean(0)).double()
        slope = (centred * (y - y.mean(0))).sum() / centred.square().sum().clamp_min(1e-12)
        decoder = decoder * slope.to(dtype)
        weights[site] = mean, encoder, threshold, decoder, y.mean(0) - written.mean(0) * slope.to(dtype)
    return RandomDictionary(name, basis.family, basis.sites, weights)


def _directions(units: int, width: int, draw: torch.Generator) -> Float[Tensor, "unit width"]:
    """Draw rows of unit norm."""
    import torch

    drawn = torch.randn(units, width, generator=draw)
    rows: Tensor = drawn / drawn.norm(dim=1, keepdim=True)
    return rows


class PrincipalAxes(RotatedActivations):
    """Activations in the coordinates of their principal axes."""

    @property
    def fingerprint(self) -> str:
        """Digest of the axes."""
        return weights_digest(self.rotations)


def fit_principal(inner: BasisSpec, name: str, model: Model, activations: Activations) -> PrincipalAxes:
    """Find the principal axes of neurons, those of most variance first.

    Raises:
        BasisError: the basis cannot be built, or is none of neurons.
    """
    import torch

    basis = _built(inner, model, activations)
    axes: list[Tensor] = []
    for site in basis.sites:
        rows = torch.cat(list(activations(site.read))).double()
        centred = rows - rows.mean(0)
        vectors = torch.linalg.eigh(centred.T @ centred).eigenvectors.T.flip(0)
        axes.append(vectors.to(torch.promote_types(model.dtype, torch.float32)).contiguous())
    return PrincipalAxes(basis.sites, tuple(axes), name, basis.family)


def build_rotated(inner: BasisSpec, name: str, model: Model) -> RotatedActivations:
    """Build the space of neurons under a random rotation, the same in every run.

    Raises:
        BasisError: the basis cannot be built.
    """
    import torch

    basis = inner.build(model)
    dtype = torch.promote_types(model.dtype, torch.float32)
    axes = (random_rotation(hook_width(site.read, site.layer, model), SEED + site.layer) for site in basis.sites)
    return RotatedActivations(basis.sites, tuple(each.to(model.device, dtype) for each in axes), name, basis.family)


def build_permuted(inner: BasisSpec, name: str, model: Model) -> Permuted:
    """Build a basis with its units' writes in disorder.

    Raises:
        BasisError: the basis cannot be built.
    """
    return Permuted(name, inner.build(model))


def _built(inner: BasisSpec, model: Model, activations: Activations) -> Basis:
    return inner.build(model) if inner.fit is None else inner.fit(model, activations)


def _fingerprint(inner: BasisSpec, spec: Any) -> str | None:
    weights = inner.fingerprint(spec)
    return None if weights is None else hashlib.sha256(f"{weights} {code_digest(inner)}".encode()).hexdigest()


def _spec(prefix: str, inner: BasisSpec) -> BasisSpec:
    name = f"{prefix}:{inner.name}"
    spec = BasisSpec(
        name,
        inner.family,
        _SUMMARIES[prefix].replace("NAME", inner.name),
        layers=inner.layers,
        repositories=inner.repositories,
        order=inner.order,
        units=inner.units,
        cross_layer=inner.cross_layer,
        control=True,
        exact=inner.exact,
    )
    if prefix == "permuted":
        return replace(spec, build=partial(build_permuted, inner, name), fingerprint=partial(_fingerprint, inner))
    if prefix == "rotated":
        return replace(spec, build=partial(build_rotated, inner, name))
    return replace(spec, fit=partial(fit_random if prefix == "random" else fit_principal, inner, name))


_SUMMARIES = {
    "permuted": "control: the dictionary NAME, each unit writing what another one should",
    "random": "control: random directions, as many as NAME has units and as sparse",
    "rotated": "control: the space of the neurons NAME under a fixed random rotation",
    "pca": "control: the principal axes of the neurons NAME on the task's prompts",
}


def resolve_name(name: str) -> BasisSpec:
    """Return a control of a registered basis.

    Raises:
        BasisBenchError: there is no such basis, or it has no such control.
    """
    from basisbench.registry import load_registry

    prefix, _, of = name.partition(":")
    inner = load_registry().get("basis", of)
    of_neurons = prefix in ("rotated", "pca")
    if inner.control or (inner.fit is not None and prefix in ("permuted", "rotated")):
        raise BasisError(f"basis '{name}': '{of}' is a control or fitted itself; give a basis that is not")
    if inner.exact != of_neurons:
        expected = "neurons, for example mlp_out" if of_neurons else "a dictionary, for example transcoder"
        raise BasisError(f"basis '{name}': expected {expected}; got '{of}'")
    return _spec(prefix, inner)


PROVIDES: tuple[BasisScheme, ...] = tuple(
    BasisScheme(prefix, f"{prefix}:NAME", summary, resolve_name) for prefix, summary in _SUMMARIES.items()
)
