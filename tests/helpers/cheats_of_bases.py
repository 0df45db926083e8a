"""All cheats: those of `cheating_bases` and `cheats_that_leave_traces`, and those that claim what is not so."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from basisbench.checks.stand_ins import StandInCrossLayer, StandInNeurons
from basisbench.models.model import Model
from basisbench.protocols import BasisSpec
from basisbench.types import Site
from helpers.cheating_bases import CHEATS, NAME, Cheat, Part, Unitwise, UnitwiseAcross, cheat, made, spec_of
from helpers.cheats_that_leave_traces import handles, restore, seen_by_all

# What it says of itself.

CHEATS["SaysItIsExact"] = "exact", lambda model: made(Cheat, model, exact=True)
CHEATS["HasAnotherName"] = "metadata", lambda model: made(Cheat, model, name="honest")
CHEATS["HidesItsWeights"] = "bytes", lambda model: made(Cheat, model, table=torch.zeros(10**5))
CHEATS["SitesOutOfOrder"] = "sites", lambda model: made(Cheat, model, sites=made(Cheat, model).sites[::-1])
CHEATS["SitesWithoutAHook"] = "sites", lambda model: made(Cheat, model, sites=(Site(0, "blocks.0.x", "blocks.0.x"),))


def other_sites(model: Model) -> Any:
    """Half of its builds read the MLP's output instead."""
    basis = made(Cheat, model)
    builds.append(1)
    if len(builds) % 2:
        return basis
    object.__setattr__(basis, "sites", tuple(replace(site, read=site.write) for site in basis.sites))
    return basis


builds: list[int] = []
CHEATS["BuildsSomethingElse"] = "built again", other_sites


@cheat("shapes")
class FlattensTheBatch(Cheat):
    def decode(self, site: Site, f: Tensor) -> Tensor:
        written = super().decode(site, f)
        return written.flatten(0, 1) if f.ndim == 3 and f.shape[1] == 1 else written


@cheat("types (bfloat16)")
class StaysInHalfPrecision(Cheat):
    def encode(self, site: Site, x: Tensor) -> Tensor:
        return super().encode(site, x).to(x.dtype)

    def decode(self, site: Site, f: Tensor) -> Tensor:
        return super().decode(site, f.to(self.decoders[0].dtype))


@cheat("types (float64)")
class RoundsToSinglePrecision(Cheat):
    def encode(self, site: Site, x: Tensor) -> Tensor:
        return super().encode(site, x).float()

    def decode(self, site: Site, f: Tensor) -> Tensor:
        return super().decode(site, f.to(self.decoders[0].dtype))


@cheat("bad input")
class TakesAnything(Cheat):
    def encode(self, site: Site, x: Tensor) -> Tensor:
        return super().encode(self.sites[min(site.layer, 1)], x[..., : self.encoders[0].shape[1]])


# Parts and writes at later layers.


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
    (EncodesOthers, "part: encode", Unitwise),
    (AddsTheBias, "part: decode", Unitwise),
    (ProjectsBackwards, "part: project", Unitwise),
    (SpreadsMore, "part: spread", UnitwiseAcross),
    (OtherwiseInAPass, "curve: errors ranked", Unitwise),
):
    CHEATS[f"Part{kind.__name__}"] = fails, lambda model, kind=kind, base=base: made(base, model, part_type=kind)
for policy in ("kept", "ablated"):
    CHEATS[f"PartOtherwiseWithErrors{policy.title()}"] = (
        f"curve: errors {policy} (float64)",
        lambda model: made(Unitwise, model, part_type=OtherwiseInAPass),
    )


class SpreadsABias(StandInCrossLayer):
    def spread(self, site: Site, f: Tensor, to: Site) -> Tensor:
        return super().spread(site, f, to) + 0.01


CHEATS["SpreadsABias"] = "spread", lambda model: made(SpreadsABias, model)


@cheat("curve: the same again")
class DriftsInPasses(Cheat):
    """Only where nothing but a curve is computed, and only a little."""

    def encode(self, site: Site, x: Tensor) -> Tensor:
        if torch.is_inference_mode_enabled():
            self.state["calls"] = self.state.get("calls", 0) + 1
        return super().encode(site, x) * (1 + 1e-3 * self.state.get("calls", 0))


# Inside the model.


class WritesElsewhere(StandInNeurons):
    """Calls itself of the family mlp, and writes into the attention."""


def writes_elsewhere(model: Model) -> Any:
    hooks = [model.hook("attn_out", layer) for layer in range(model.layers)]
    return WritesElsewhere(tuple(Site(layer, hook, hook) for layer, hook in enumerate(hooks)), name=NAME)


CHEATS["WritesElsewhere"] = "F(0), counterfactual", writes_elsewhere


@cheat("F(0), mean")
class LosesABit(Cheat):
    """A constant that its errors do not account for: it is added where coordinates are a mean of several."""

    def decode(self, site: Site, f: Tensor) -> Tensor:
        return super().decode(site, f) + f.abs().amax(-1, keepdim=True)


CHEATS["LosesWhatItReads"] = "everything kept", lambda model: made(Cheat, model, exact=True)


class AnotherFingerprint:
    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, _model: object) -> str:
        self.calls += 1
        return f"digest {self.calls}"


SPECS: Mapping[str, tuple[str, BasisSpec]] = {
    **{name: (fails, spec_of(build)) for name, (fails, build) in CHEATS.items()},
    "ChangesItsFingerprint": (
        "fingerprint",
        replace(spec_of(lambda model: made(Cheat, model)), fingerprint=AnotherFingerprint()),
    ),
}


def clean_up() -> None:
    """Undo what cheats have done outside the model."""
    for handle in handles:
        handle.remove()
    for undo in restore:
        undo()
    handles.clear()
    restore.clear()
    seen_by_all.clear()
    builds.clear()
