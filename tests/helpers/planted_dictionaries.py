"""Dictionaries whose worth is known: useless ones, neurons written too strongly, true ones in disorder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from basisbench.models.model import Model
from basisbench.protocols import BasisSpec
from basisbench.registry import load_registry
from basisbench.types import Family, Site
from basisbench_baselines.bases.saelens import DictionaryBasis


@dataclass(frozen=True, eq=False)
class Planted:
    """The MLP's output, encoded and decoded by two functions.

    Attributes:
        name: name of the basis.
        sites: one per layer.
        encoder: of every layer.
        decoder: of every layer.
    """

    name: str
    sites: Sequence[Site]
    encoder: Callable[[Tensor], Tensor]
    decoder: Callable[[Tensor], Tensor]
    family: Family = "mlp"
    exact: bool = False
    parameter_bytes: int = 0

    def encode(self, site: Site, x: Tensor) -> Tensor:
        assert site in self.sites
        return self.encoder(x)

    def decode(self, site: Site, f: Tensor) -> Tensor:
        assert site in self.sites
        return self.decoder(f)


def _planted(name: str, encoder: Callable[[Tensor], Tensor], decode: Callable[..., Tensor], model: Model) -> Planted:
    hooks = [model.hook("mlp_out", layer) for layer in range(model.layers)]
    sites = tuple(Site(layer, hook, hook) for layer, hook in enumerate(hooks))
    return Planted(name, sites, encoder, partial(decode, width=int(model.bridge.cfg.d_model)))


def _spec(
    name: str, encoder: Callable[[Tensor], Tensor], decoder: Callable[..., Tensor], *, control: bool = False
) -> BasisSpec:
    return BasisSpec(name, "mlp", "planted", build=partial(_planted, name, encoder, decoder), control=control)


def one_unit(coordinate: int = 3) -> BasisSpec:
    """A dictionary of one unit per layer, one coordinate of the MLP's output: useless, and its error a whole vector."""

    def decode(f: Tensor, width: int) -> Tensor:
        written = f.new_zeros(*f.shape[:-1], width)
        written[..., coordinate] = f[..., 0]
        return written

    return _spec("one unit", lambda x: x[..., [coordinate]], decode, control=True)


def neurons_times(factor: float) -> BasisSpec:
    """The neurons of the MLP's output, each written `factor` times as strongly as it is."""
    return _spec(f"neurons x {factor:g}", lambda x: x, lambda f, width: factor * f)  # noqa: ARG005 -- the same for all


def random_dictionary(units: int = 200) -> BasisSpec:
    """Random encoders and decoders."""

    def drawn(*size: int) -> Tensor:
        return torch.randn(size, generator=torch.Generator().manual_seed(sum(size)))

    return _spec(
        "random",
        lambda x: (x @ drawn(x.shape[-1], units) / x.shape[-1] ** 0.5).relu(),
        lambda f, width: f @ drawn(units, width) / units**0.5,
        control=True,
    )


def _changed(name: str, of: str, change: Callable[[int, list[Any]], Any], model: Model) -> DictionaryBasis:
    basis = load_registry().get("basis", of).build(model)
    assert isinstance(basis, DictionaryBasis)
    dictionaries = list(basis.dictionaries)
    return replace(
        basis, name=name, dictionaries=tuple(change(layer, dictionaries) for layer in range(len(dictionaries)))
    )


def shuffled(of: str = "sae_mlp_out") -> BasisSpec:
    """A trained dictionary whose decoder rows are permuted: each feature writes what another one means."""

    def permute(layer: int, dictionaries: list[Any]) -> Any:
        dictionary = deepcopy(dictionaries[layer])
        order = torch.randperm(len(dictionary.W_dec), generator=torch.Generator().manual_seed(layer))
        with torch.no_grad():
            dictionary.W_dec.copy_(dictionary.W_dec[order])
        return dictionary

    return BasisSpec("shuffled", "mlp", "planted", build=partial(_changed, "shuffled", of, permute), control=True)


def misplaced(of: str, *, layer: int, taken_from: int, name: str = "misplaced") -> BasisSpec:
    """A trained dictionary with that of one layer in the place of another's."""

    def choose(here: int, dictionaries: list[Any]) -> Any:
        return dictionaries[taken_from if here == layer else here]

    return BasisSpec(name, "mlp", "planted", build=partial(_changed, name, of, choose))


@dataclass(frozen=True, eq=False)
class Halved:
    """A basis in which one unit of one layer is two: each has the unit's activation, and half of what it writes."""

    basis: DictionaryBasis
    layer: int
    unit: int
    name: str = "halved"
    family: Family = "mlp"
    exact: bool = False

    @property
    def sites(self) -> Sequence[Site]:
        return self.basis.sites

    @property
    def parameter_bytes(self) -> int:
        return self.basis.parameter_bytes

    def encode(self, site: Site, x: Tensor) -> Tensor:
        f = self.basis.encode(site, x)
        return torch.cat([f, f[..., [self.unit]]], -1) if site.layer == self.layer else f

    def decode(self, site: Site, f: Tensor) -> Tensor:
        if site.layer == self.layer:
            twin, f = f[..., -1], f[..., :-1].clone()
            f[..., self.unit] = (f[..., self.unit] + twin) / 2
        return self.basis.decode(site, f)


def halved(layer: int, unit: int, of: str = "sae_mlp_out") -> BasisSpec:
    """A trained dictionary with one unit cut into two halves; the second half comes last in its layer."""

    def build(model: Model) -> Halved:
        basis = load_registry().get("basis", of).build(model)
        assert isinstance(basis, DictionaryBasis)
        return Halved(basis, layer, unit)

    return BasisSpec("halved", "mlp", "planted", build=build)
