"""Cheats that leave something behind: hooks, changed weights, constants, code and settings, kept activations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from basisbench.models.model import Model
from basisbench.types import Site
from helpers.cheating_bases import CHEATS, Cheat, cheat, made


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
    model.fast_body.get_submodule("model.norm").variance_epsilon = 0.1
    return made(Cheat, model)


CHEATS["ChangesThePackedBody"] = "F(M)", changes_the_packed_body


def replaces_code(model: Model) -> Any:
    from basisbench.attribution.context import GroupContext

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
