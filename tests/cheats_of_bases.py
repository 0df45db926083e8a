"""All cheats: those of `cheating_bases`, and those that leave something behind or claim what is not so."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from basisbench.checks.stand_ins import StandInCrossLayer, StandInNeurons
from basisbench.model import Model
from basisbench.protocols import BasisSpec
from basisbench.types import Site
from cheating_bases import CHEATS, NAME, Cheat, Part, Unitwise, UnitwiseAcross, cheat, made, spec_of

# What is left behind.


@cheat("passes")
class RunsTheModel(Cheat):
    def encode(self, site: Site, x: Tensor) -> Tensor:
        with torch.no_grad():
            self.model.body(input_ids=torch.tensor([[1, 2, 3]]))
        return super().encode(site, x)


def registers_a_hook(model: Model) -> Any:
    model.body.get_submodule("model.layers.0").register_forward_hook(lambda *_: None)
    return made(Cheat, model)


CHEATS["LeavesAHookWhenBuilt"] = "hooks", registers_a_hook


def registers_a_bridge_hook(model: Model) -> Any:
    model.bridge.add_hook("blocks.0.hook_mlp_out", lambda value, hook: value)  # noqa: ARG005 -- passed by name
    return made(Cheat, model)


CHEATS["LeavesAHookOnTheBridge"] = "hooks", registers_a_bridge_hook


@cheat("hooks")
class HooksFromEncodeToDecode(Cheat):
    """The hook is there only while a pass lies between encoding and decoding."""

    def encode(self, site: Site, x: Tensor) -> Tensor:
        module = self.model.body.get_submodule("model.layers.1.mlp")
        self.state["handle"] = module.register_forward_pre_hook(lambda *_: None)
        return super().encode(site, x)

    def decode(self, site: Site, f: Tensor) -> Tensor:
        if "handle" in self.state:
            self.state.pop("handle").remove()
        return super().decode(site, f)


@cheat("hooks")
class LeavesAHookWhenItFails(Cheat):
    def encode(self, site: Site, x: Tensor) -> Tensor:
        handle = self.model.body.register_forward_hook(lambda *_: None)
        f = super().encode(site, x)
        handle.remove()
        return f


@cheat("hooks")
class ReplacesAForward(Cheat):
    def encode(self, site: Site, x: Tensor) -> Tensor:
        module = self.model.body.get_submodule("model.layers.1.mlp")
        module.forward = type(module).forward.__get__(module)
        return super().encode(site, x)


def hooks_every_module(model: Model) -> Any:
    from torch.nn.modules.module import register_module_forward_hook

    handles.append(register_module_forward_hook(lambda *_: None))
    return made(Cheat, model)


handles: list[Any] = []
CHEATS["HooksEveryModule"] = "hooks", hooks_every_module


@cheat("weights")
class ChangesAWeight(Cheat):
    def encode(self, site: Site, x: Tensor) -> Tensor:
        with torch.no_grad():
            self.model.body.get_submodule("model.norm").weight.mul_(1.001)
        return super().encode(site, x)


@cheat("weights")
class ChangesAWeightForAWhile(Cheat):
    """Puts it back when it decodes."""

    def encode(self, site: Site, x: Tensor) -> Tensor:
        weight = self.model.body.get_submodule("model.norm").weight
        self.state.setdefault("kept", weight.detach().clone())
        weight.data.copy_(self.state["kept"] * 1.01)
        return super().encode(site, x)

    def decode(self, site: Site, f: Tensor) -> Tensor:
        if "kept" in self.state:
            self.model.body.get_submodule("model.norm").weight.data.copy_(self.state["kept"])
        return super().decode(site, f)


@cheat("hooks at the end")
class LeavesAHookInAPass(Cheat):
    """Only where circuits are evaluated."""

    def encode(self, site: Site, x: Tensor) -> Tensor:
        if torch.is_inference_mode_enabled():
            self.model.body.register_forward_hook(lambda *_: None)
        return super().encode(site, x)


@cheat("weights at the end")
class ChangesAWeightInAPass(Cheat):
    def encode(self, site: Site, x: Tensor) -> Tensor:
        if torch.is_inference_mode_enabled():
            self.model.body.get_submodule("model.norm").weight.data.mul_(1.001)
        return super().encode(site, x)


@cheat("gradients")
class AsksForGradients(Cheat):
    def encode(self, site: Site, x: Tensor) -> Tensor:
        self.model.body.get_submodule("model.norm").weight.requires_grad_(True)
        return super().encode(site, x)


def changes_a_constant(model: Model) -> Any:
    """No weight and no hook, but another forward pass."""
    model.body.get_submodule("model.norm").variance_epsilon = 0.1
    return made(Cheat, model)


CHEATS["ChangesAConstant"] = "forward", changes_a_constant


def changes_the_packed_body(model: Model) -> Any:
    """The plain body stays; what curves are run on does not."""
    model.quick_body.get_submodule("model.norm").variance_epsilon = 0.1
    return made(Cheat, model)


CHEATS["ChangesThePackedBody"] = "F(M)", changes_the_packed_body


def replaces_code(model: Model) -> Any:
    from basisbench.context import GroupContext

    original = GroupContext.clean_metric
    restore.append(lambda: setattr(GroupContext, "clean_metric", original))
    GroupContext.clean_metric = lambda self: original(self)  # type: ignore[method-assign]
    return made(Cheat, model)


restore: list[Callable[[], None]] = []
CHEATS["ReplacesTheHarness"] = "code", replaces_code


@cheat("settings")
class SeedsTorch(Cheat):
    def encode(self, site: Site, x: Tensor) -> Tensor:
        torch.manual_seed(0)
        return super().encode(site, x)


@cheat("state")
class KeepsActivations(Cheat):
    """For later."""

    def encode(self, site: Site, x: Tensor) -> Tensor:
        self.state[len(self.state)] = x.clone()
        return super().encode(site, x)


seen_by_all: list[Tensor] = []


@cheat("state")
class KeepsActivationsInTheModule(Cheat):
    def encode(self, site: Site, x: Tensor) -> Tensor:
        seen_by_all.append(x.clone())
        return super().encode(site, x)


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
