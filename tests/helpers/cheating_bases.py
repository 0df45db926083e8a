"""Bases that break the contract, each in one way, and the property that must tell: one for each property.

The honest one is a random transcoder on the MLP; every cheat is a small change of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

import torch
from torch import Tensor

from basisbench.checks.stand_ins import StandInCrossLayer, StandInDictionary, StandInNeurons, stand_in
from basisbench.models.model import Model
from basisbench.protocols import BasisSpec
from basisbench.types import Site

NAME = "stand-in dictionary"


@dataclass(frozen=True, eq=False)
class Part:
    """Some units of the honest basis."""

    basis: StandInDictionary
    site: Site
    units: Tensor

    def encode(self, x: Tensor) -> Tensor:
        weight = self.basis.encoders[self.site.layer][self.units]
        return (x.to(weight.dtype) @ weight.T).relu()

    def decode(self, f: Tensor) -> Tensor:
        return f @ self.basis.decoders[self.site.layer][self.units]

    def project(self, gradient: Tensor) -> Tensor:
        return gradient @ self.basis.decoders[self.site.layer][self.units].T

    def spread(self, f: Tensor, to: Site) -> Tensor:
        return self.decode(f) / (1 + to.layer - self.site.layer)


class Unitwise(StandInDictionary):
    part_type: type[Part] = Part

    def part(self, site: Site, units: Tensor) -> Part:
        return self.part_type(self, site, units)


class UnitwiseAcross(StandInCrossLayer):
    part_type: type[Part] = Part

    def part(self, site: Site, units: Tensor) -> Part:
        return self.part_type(self, site, units)


class Cheat(StandInDictionary):
    state: dict[Any, Any]
    model: Model


CHEATS: dict[str, tuple[str, Callable[[Model], Any]]] = {}
"""By name: the property that must fail, and how the cheat is built for a model."""


def made(kind: type[StandInDictionary], model: Model, **changes: Any) -> Any:
    """Build a variant of the honest basis."""
    honest = stand_in("cross-layer transcoder" if issubclass(kind, StandInCrossLayer) else "dictionary", model)
    assert isinstance(honest, StandInDictionary)
    basis = kind(honest.sites, honest.encoders, honest.decoders, name=NAME)
    for name, value in {"state": {}, "model": model, **changes}.items():
        object.__setattr__(basis, name, value)
    return basis


def cheat(fails: str) -> Callable[[type], type]:
    """Register a class as a cheat."""

    def register(kind: type) -> type:
        CHEATS[kind.__name__] = fails, lambda model: made(kind, model)
        return kind

    return register


def spec_of(build: Callable[[Model], Any]) -> BasisSpec:
    return BasisSpec(NAME, "mlp", "a cheat", build=build)


# What it says of itself.

CHEATS["HasAnotherName"] = "metadata", lambda model: made(Cheat, model, name="honest")
CHEATS["SitesOutOfOrder"] = "sites", lambda model: made(Cheat, model, sites=made(Cheat, model).sites[::-1])
CHEATS["SaysItIsExact"] = "exact", lambda model: made(Cheat, model, exact=True)
CHEATS["LosesWhatItReads"] = "everything kept", lambda model: made(Cheat, model, exact=True)


@cheat("shapes")
class FlattensTheBatch(Cheat):
    def decode(self, site: Site, f: Tensor) -> Tensor:
        written = super().decode(site, f)
        return written.flatten(0, 1) if f.ndim == 3 and f.shape[1] == 1 else written


@cheat("types")
class IsReadyForTraining(Cheat):
    def decode(self, site: Site, f: Tensor) -> Tensor:
        return super().decode(site, f.detach().requires_grad_(torch.is_grad_enabled()))


@cheat("types (bfloat16)")
class StaysInHalfPrecision(Cheat):
    def encode(self, site: Site, x: Tensor) -> Tensor:
        return super().encode(site, x).to(x.dtype)

    def decode(self, site: Site, f: Tensor) -> Tensor:
        return super().decode(site, f.to(self.decoders[0].dtype))


@cheat("bad input")
class TakesAnything(Cheat):
    def encode(self, site: Site, x: Tensor) -> Tensor:
        return super().encode(self.sites[min(site.layer, 1)], x[..., : self.encoders[0].shape[1]])


# Functions of their argument alone, row by row.


@cheat("encode: the same again")
class AddsNoise(Cheat):
    def encode(self, site: Site, x: Tensor) -> Tensor:
        f = super().encode(site, x)
        return f + 1e-3 * torch.rand_like(f)


@cheat("decode: the same again")
class RemembersByMemory(Cheat):
    """A cache that asks where a tensor lies, not what is in it."""

    def decode(self, site: Site, f: Tensor) -> Tensor:
        key = site, f.data_ptr(), f.shape
        if key not in self.state:
            self.state[key] = super().decode(site, f).clone()
        return self.state[key].clone()


@cheat("encode: rows alone")
class SubtractsTheBatchMean(Cheat):
    def encode(self, site: Site, x: Tensor) -> Tensor:
        return super().encode(site, x - x.mean(0, keepdim=True) if x.ndim > 1 else x)


@cheat("decode: rows alone")
class LooksHowLargeTheBatchIs(Cheat):
    def decode(self, site: Site, f: Tensor) -> Tensor:
        return super().decode(site, f) * (1 + f.shape[:-1].numel() / 1000)


@cheat("encode: leaves tensors alone")
class WritesIntoTheActivation(Cheat):
    def encode(self, site: Site, x: Tensor) -> Tensor:
        f = super().encode(site, x)
        x.mul_(1.01)
        return f


@cheat("decode: leaves tensors alone")
class DecodesIntoOneBuffer(Cheat):
    def decode(self, site: Site, f: Tensor) -> Tensor:
        written = super().decode(site, f)
        buffer = self.state.setdefault(site, torch.zeros(10**5, dtype=written.dtype))
        return buffer[: written.numel()].view(written.shape).copy_(written)


@cheat("decode: coordinates alone")
class DecodesTheLastActivation(Cheat):
    """Reconstructs what encode saw last, so that its errors are nothing."""

    def encode(self, site: Site, x: Tensor) -> Tensor:
        self.state[site] = x.clone()
        return super().encode(site, x)

    def decode(self, site: Site, f: Tensor) -> Tensor:
        seen = self.state.get(site)
        if seen is not None and seen.shape[:-1] == f.shape[:-1]:
            return seen.to(f.dtype)
        return super().decode(site, f)


@cheat("decode: affine")
class SquaresCoordinates(Cheat):
    def decode(self, site: Site, f: Tensor) -> Tensor:
        return super().decode(site, f * f)


@cheat("decode: affine")
class HasAnotherGradient(Cheat):
    """Right values, a gradient ten times too large."""

    def decode(self, site: Site, f: Tensor) -> Tensor:
        return super().decode(site, f.detach() - 10 * f.detach() + 10 * f)


# Optional promises.


class EncodesOthers(Part):
    def encode(self, x: Tensor) -> Tensor:
        return super().encode(x) * 1.01


class AddsTheBias(Part):
    def decode(self, f: Tensor) -> Tensor:
        return super().decode(f) + 0.1


class ProjectsBackwards(Part):
    def project(self, gradient: Tensor) -> Tensor:
        return -super().project(gradient)


class SpreadsMore(Part):
    def spread(self, f: Tensor, to: Site) -> Tensor:
        return super().spread(f, to) * (1 + to.layer - self.site.layer)


class OtherwiseInAPass(Part):
    """The parts are right until a circuit is evaluated."""

    def encode(self, x: Tensor) -> Tensor:
        return super().encode(x) * (1.5 if torch.is_inference_mode_enabled() else 1)


for kind, fails, base in (
    (EncodesOthers, "part", Unitwise),
    (AddsTheBias, "part", Unitwise),
    (ProjectsBackwards, "part", Unitwise),
    (SpreadsMore, "part", UnitwiseAcross),
    (OtherwiseInAPass, "curve", Unitwise),
):
    CHEATS[f"Part{kind.__name__}"] = fails, lambda model, kind=kind, base=base: made(base, model, part_type=kind)


class SpreadsABias(StandInCrossLayer):
    def spread(self, site: Site, f: Tensor, to: Site) -> Tensor:
        return super().spread(site, f, to) + 0.01


CHEATS["SpreadsABias"] = "spread", lambda model: made(SpreadsABias, model)


@cheat("streams")
class HoldsLessAndIsCoarser(Cheat):
    streams = True

    def keep_less(self) -> bool:
        self.state["coarse"] = True
        return True

    def encode(self, site: Site, x: Tensor) -> Tensor:
        f = super().encode(site, x)
        return f.half().to(f.dtype) if self.state else f


# Inside the model.


def changes_passes(model: Model) -> Any:
    """Changes the model where curves are computed, and nowhere else."""
    model.fast_body.get_submodule("model.norm").register_forward_hook(
        lambda _module, _arguments, value: value * (1.1 if torch.is_inference_mode_enabled() else 1)
    )
    return made(Cheat, model)


CHEATS["ChangesPasses"] = "F(M)", changes_passes


@cheat("F(0), mean")
class LosesABit(Cheat):
    """A constant that its errors do not account for: it is added where coordinates are a mean of several."""

    def decode(self, site: Site, f: Tensor) -> Tensor:
        return super().decode(site, f) + f.abs().amax(-1, keepdim=True)


def writes_elsewhere(model: Model) -> Any:
    """Calls itself of the family mlp, and writes into the attention."""
    hooks = [model.hook("attn_out", layer) for layer in range(model.layers)]
    return StandInNeurons(tuple(Site(layer, hook, hook) for layer, hook in enumerate(hooks)), name=NAME)


CHEATS["WritesElsewhere"] = "F(0), counterfactual", writes_elsewhere


# What it leaves behind.


@cheat("hooks")
class LeavesAHookWhenItFails(Cheat):
    def encode(self, site: Site, x: Tensor) -> Tensor:
        handle = self.model.body.register_forward_hook(lambda *_: None)
        f = super().encode(site, x)
        handle.remove()
        return f


@cheat("forward")
class ChangesAWeight(Cheat):
    def encode(self, site: Site, x: Tensor) -> Tensor:
        self.model.body.get_submodule("model.norm").weight.data.mul_(1.001)
        return super().encode(site, x)


@cheat("settings")
class SeedsTorch(Cheat):
    def encode(self, site: Site, x: Tensor) -> Tensor:
        torch.manual_seed(0)
        return super().encode(site, x)


_CALLS = count()
SPECS: Mapping[str, tuple[str, BasisSpec]] = {
    **{name: (fails, spec_of(build)) for name, (fails, build) in CHEATS.items()},
    "ChangesItsFingerprint": (
        "fingerprint",
        replace(spec_of(CHEATS["SaysItIsExact"][1]), fingerprint=lambda _model: f"digest {next(_CALLS)}"),
    ),
}
