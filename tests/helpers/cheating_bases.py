"""Bases that break the contract, each in one way, and the property that must tell. All but one thing is honest.

The honest one is a random transcoder on the MLP; every cheat is a small change of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from basisbench.checks.stand_ins import StandInCrossLayer, StandInDictionary, stand_in
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


CHEATS: dict[str, tuple[str, Callable[[Model], Any]]] = {}
"""By name: the property that must fail, and how the cheat is built for a model."""


def made(kind: type[StandInDictionary], model: Model, **changes: Any) -> Any:
    """Build a variant of the honest basis."""
    honest = stand_in("cross-layer transcoder" if issubclass(kind, StandInCrossLayer) else "dictionary", model)
    assert isinstance(honest, StandInDictionary)
    basis = kind(honest.sites, honest.encoders, honest.decoders, name=NAME)
    object.__setattr__(basis, "state", {})
    object.__setattr__(basis, "model", model)
    for name, value in changes.items():
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


class Cheat(StandInDictionary):
    state: dict[Any, Any]
    model: Model


# What a decoder may not know.


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
class RemembersByContent(Cheat):
    """Keeps the activation of every code that it made, found again by the code's bytes."""

    def encode(self, site: Site, x: Tensor) -> Tensor:
        f = super().encode(site, x)
        for code, row in zip(f.view(-1, f.shape[-1]), x.to(f.dtype).reshape(-1, x.shape[-1]), strict=True):
            self.state[code.detach().numpy().tobytes()] = row
        return f

    def decode(self, site: Site, f: Tensor) -> Tensor:
        rows = f.reshape(-1, f.shape[-1])
        written = super().decode(site, rows).clone()
        for index, code in enumerate(rows):
            known = self.state.get(code.detach().numpy().tobytes())
            if known is not None:
                written[index] = known
        return written.view(*f.shape[:-1], -1)


@cheat("decode: coordinates alone")
class HangsItOnTheTensor(Cheat):
    """Passes the activation on as an attribute of the coordinates."""

    def encode(self, site: Site, x: Tensor) -> Tensor:
        f = super().encode(site, x)
        f.seen = x  # type: ignore[attr-defined]
        return f

    def decode(self, site: Site, f: Tensor) -> Tensor:
        return f.seen.to(f.dtype) if hasattr(f, "seen") else super().decode(site, f)


@cheat("decode: coordinates alone")
class HidesItBehindTheCoordinates(Cheat):
    """Returns a view of memory whose other half is the activation."""

    def encode(self, site: Site, x: Tensor) -> Tensor:
        f = super().encode(site, x)
        return torch.cat([f, x.to(f.dtype)], -1)[..., : f.shape[-1]]

    def decode(self, site: Site, f: Tensor) -> Tensor:
        width, units = self.decoders[0].shape[1], f.shape[-1]
        if f.ndim > 1 and f.stride(-2) == units + width and f.untyped_storage().nbytes() > f.nbytes:
            return torch.as_strided(f, (*f.shape[:-1], width), f.stride(), f.storage_offset() + units)
        return super().decode(site, f)


class Carrier(Tensor):
    """A tensor class of the cheat's own."""


@cheat("decode: coordinates alone")
class ReturnsItsOwnTensors(Cheat):
    def encode(self, site: Site, x: Tensor) -> Tensor:
        return super().encode(site, x).as_subclass(Carrier)


@cheat("decode: rows alone")
class LooksWhichPromptItIs(Cheat):
    def decode(self, site: Site, f: Tensor) -> Tensor:
        written = super().decode(site, f).clone()
        if f.ndim > 1:
            written[0] *= 1.5
        return written


@cheat("decode: rows alone")
class LooksHowLargeTheBatchIs(Cheat):
    def decode(self, site: Site, f: Tensor) -> Tensor:
        return super().decode(site, f) * (1 + f.shape[:-1].numel() / 1000)


@cheat("decode: affine")
class SquaresCoordinates(Cheat):
    def decode(self, site: Site, f: Tensor) -> Tensor:
        return super().decode(site, f * f)


@cheat("decode: the same again")
class DecodesOtherwiseLater(Cheat):
    def decode(self, site: Site, f: Tensor) -> Tensor:
        self.state["calls"] = self.state.get("calls", 0) + 1
        return super().decode(site, f) * (1 + 0.01 * self.state["calls"])


@cheat("decode: numbers alone")
class FindsReconstructionsByMemory(Cheat):
    def decode(self, site: Site, f: Tensor) -> Tensor:
        key = site, f.data_ptr(), f.shape
        if key not in self.state:
            self.state[key] = super().decode(site, f).clone()
        return self.state[key].clone()


@cheat("decode: leaves tensors alone")
class DecodesIntoOneBuffer(Cheat):
    def decode(self, site: Site, f: Tensor) -> Tensor:
        written = super().decode(site, f)
        if torch.is_grad_enabled():
            return written
        buffer = self.state.setdefault((site, f.ndim), torch.zeros(10**5, dtype=written.dtype))
        return buffer[: written.numel()].view(written.shape).copy_(written)


@cheat("decode: gradient modes")
class DecodesOtherwiseWithGradients(Cheat):
    def decode(self, site: Site, f: Tensor) -> Tensor:
        return super().decode(site, f) * (2 if torch.is_grad_enabled() else 1)


@cheat("decode: a matrix and a bias")
class HasAnotherGradient(Cheat):
    """Right values, a gradient ten times too large."""

    def decode(self, site: Site, f: Tensor) -> Tensor:
        return super().decode(site, f.detach() - 10 * f.detach() + 10 * f)


# What an encoder may not know.


@cheat("encode: the same again")
class DriftsFromCallToCall(Cheat):
    def encode(self, site: Site, x: Tensor) -> Tensor:
        self.state["calls"] = self.state.get("calls", 0) + 1
        return super().encode(site, x) * (1 + 1e-4 * self.state["calls"])


@cheat("encode: the same again")
class AddsNoise(Cheat):
    def encode(self, site: Site, x: Tensor) -> Tensor:
        f = super().encode(site, x)
        return f + 1e-3 * torch.rand_like(f)


@cheat("encode: numbers alone")
class FindsCodesByIdentity(Cheat):
    """Keyed by the tensor's identity: another tensor may get it once the first is gone."""

    def encode(self, site: Site, x: Tensor) -> Tensor:
        key = site, id(x), tuple(x.shape)
        if key not in self.state:
            self.state[key] = super().encode(site, x)
        return self.state[key].clone()


@cheat("encode: rows alone")
class SubtractsTheBatchMean(Cheat):
    def encode(self, site: Site, x: Tensor) -> Tensor:
        return super().encode(site, x - x.mean(0, keepdim=True) if x.ndim > 1 else x)


@cheat("encode: rows alone")
class LooksAtOtherPositions(Cheat):
    def encode(self, site: Site, x: Tensor) -> Tensor:
        return super().encode(site, x + 0.1 * x.roll(1, -2) if x.ndim > 2 else x)


@cheat("encode: rows alone")
class EncodesOtherwiseInAPass(Cheat):
    """Passes over several circuits have a fourth axis."""

    def encode(self, site: Site, x: Tensor) -> Tensor:
        return super().encode(site, x) * (1.1 if x.ndim == 4 else 1)


@cheat("encode: gradient modes")
class EncodesOtherwiseWithoutGradients(Cheat):
    def encode(self, site: Site, x: Tensor) -> Tensor:
        return super().encode(site, x) * (1.1 if torch.is_inference_mode_enabled() else 1)


@cheat("encode: leaves tensors alone")
class WritesIntoTheActivation(Cheat):
    def encode(self, site: Site, x: Tensor) -> Tensor:
        f = super().encode(site, x)
        x.mul_(1.01)
        return f


@cheat("encode: leaves tensors alone")
class EncodesIntoOneBuffer(Cheat):
    def encode(self, site: Site, x: Tensor) -> Tensor:
        f = super().encode(site, x)
        buffer = self.state.setdefault(site, torch.zeros(10**6, dtype=f.dtype))
        return buffer[: f.numel()].view(f.shape).copy_(f)
