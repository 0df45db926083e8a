"""Encoder and decoder as functions: of their argument alone, row by row, the decoder affine.

1. Activations of two sets of prompts are encoded again and again: after others, in other shapes, among other rows, in
   memory that held something else, by a basis that was just built. Coordinates must not notice.
2. Coordinates are decoded in any order, by a basis that never saw an activation, as copies that carry nothing but
   their numbers; and sums of coordinates must give sums of reconstructions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from basisbench.checks.finding import Check, Finding, at_most, holds, not_measured, nothing
from basisbench.checks.stage import BasisStage, row_difference
from basisbench.types import Site

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from basisbench.protocols import Basis

Function = Callable[["Tensor"], "Tensor"]
"""An encoder or a decoder at one site."""

_WIDEST_MATRIX = 2**26
"""Entries up to which a decoder's whole matrix is read off."""


@dataclass(frozen=True, eq=False)
class Probe:
    """One function of a basis at one site, and what it is tried on.

    Attributes:
        site: the site.
        function: the encoder or the decoder, without gradients.
        fresh: that of a basis that has seen nothing yet, where the basis can be built anew.
        bare: the function as the basis has it, with gradients where they are enabled.
        first: its arguments for one set of prompts.
        second: its arguments for another set.
    """

    site: Site
    function: Function
    fresh: Function
    bare: Function
    first: Float[Tensor, "pair pos d"]
    second: Float[Tensor, "other pos d"]

    @property
    def as_many(self) -> tuple[Float[Tensor, "pair pos d"], Float[Tensor, "pair pos d"]]:
        """As many arguments of each set."""
        count = min(len(self.first), len(self.second))
        return self.first[:count], self.second[:count]


def encoder(basis: Basis, site: Site) -> Function:
    """Return the encoder of a site, without gradients."""
    return _without_gradients(partial(basis.encode, site))


def decoder(basis: Basis, site: Site) -> Function:
    """Return the decoder of a site, without gradients."""
    return _without_gradients(partial(basis.decode, site))


def _without_gradients(function: Function) -> Function:
    def call(value: Tensor) -> Tensor:
        import torch

        with torch.no_grad():
            return function(value)

    return call


def _encoders(stage: BasisStage) -> Iterator[Probe]:
    """Yield the encoder of each site, with activations."""
    basis, fresh = stage.basis, stage.fresh()
    for site in basis.sites:
        first, second = stage.read(site), stage.read(site, split="evaluation", side="counterfactual")
        yield Probe(site, encoder(basis, site), encoder(fresh, site), partial(basis.encode, site), first, second)


def _decoders(stage: BasisStage) -> Iterator[Probe]:
    """Yield the decoder of each site, with coordinates of activations."""
    basis, fresh = stage.basis, stage.fresh()
    for site in basis.sites:
        encode = encoder(basis, site)
        first = encode(stage.read(site)).clone()
        second = encode(stage.read(site, split="evaluation", side="counterfactual")).clone()
        yield Probe(site, decoder(basis, site), decoder(fresh, site), partial(basis.decode, site), first, second)


def _again(stage: BasisStage, probes: Iterator[Probe]) -> Finding:
    """Hold that a function gives the same for the same numbers, whatever was before."""
    import torch

    worst = 0.0
    for probe in probes:
        function, first, second = probe.function, probe.first, probe.second
        expected = function(first).clone()
        others = [function(first), function(first.clone())]
        function(second)
        others.append(function(first))
        function(second[:1])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            others.append(function(first))
        others.append(probe.fresh(first))
        worst = max(worst, *(row_difference(other, expected) for other in others))
    return at_most(worst, stage.rounding / 100, "largest relative difference")


def _in_used_memory(stage: BasisStage, probes: Iterator[Probe]) -> Finding:
    """Hold that a function looks at the numbers it is given, not at the tensor that holds them."""
    worst = 0.0
    for probe in probes:
        function, (one, other) = probe.function, probe.as_many
        expected = function(other.clone()).clone()
        held = one.clone()
        function(held)
        held.copy_(other)
        worst = max(worst, row_difference(function(held), expected))
        for _ in range(8):  # objects and memory of what is gone are often given to what comes next
            gone = one.clone()
            function(gone)
            del gone
            worst = max(worst, row_difference(function(other.clone()), expected))
    return at_most(worst, stage.rounding / 100, "largest relative difference")


def _rows_alone(stage: BasisStage, probes: Iterator[Probe]) -> Finding:
    """Hold that what comes out for a row does not depend on the rows beside it, nor on the shape of the batch."""
    import torch

    worst = 0.0
    for probe in probes:
        function, first, second = probe.function, probe.first, probe.second
        pairs, positions, width = first.shape
        expected = function(first).clone()
        order = torch.randperm(pairs * positions, generator=torch.Generator().manual_seed(0)).to(first.device)
        shuffled = function(first.flatten(0, 1)[order])
        worst = max(worst, row_difference(shuffled, expected.flatten(0, 1)[order]))
        one_by_one = torch.stack([function(row) for row in first[0]])
        worst = max(worst, row_difference(one_by_one, expected[0]))
        # Neighbours of other prompts, at other positions, and none at all.
        foreign = second.flatten(0, 1).repeat(1 + pairs * positions // len(second.flatten(0, 1)), 1)
        mixed = foreign[: pairs * positions].view(pairs, positions, width).clone()
        mixed[:, ::3] = first[:, ::3]
        worst = max(worst, row_difference(function(mixed)[:, ::3], expected[:, ::3]))
        last = function(first[:, -1:])
        worst = max(worst, row_difference(last, expected[:, -1:]))
        half = pairs // 2
        four = function(first[: 2 * half].view(2, half, positions, width).expand(2, half, positions, width))
        worst = max(worst, row_difference(four.flatten(0, 1), expected[: 2 * half]))
        across = function(first.transpose(0, 1)).transpose(0, 1)
        worst = max(worst, row_difference(across, expected))
    return at_most(worst, stage.rounding, "largest relative difference of a row")


def _gradient_modes(stage: BasisStage, probes: Iterator[Probe]) -> Finding:
    """Hold that a function computes the same with and without gradients, and asks for none by itself."""
    import torch

    worst = 0.0
    for probe in probes:
        expected = probe.function(probe.first).clone()
        with torch.enable_grad():
            found = probe.bare(probe.first)
        if found.requires_grad:
            return holds(False, f"the result at {probe.site.write} requires a gradient", "no gradient required")
        with torch.inference_mode():
            inferred = probe.bare(probe.first).clone()
        worst = max(worst, row_difference(found, expected), row_difference(inferred, expected))
    return at_most(worst, stage.rounding, "largest relative difference")


def _leaves_alone(_stage: BasisStage, probes: Iterator[Probe]) -> Finding:
    """Hold that a function writes neither into its argument nor into what it returned before."""
    changed = []
    for probe in probes:
        function, first, second = probe.function, probe.first, probe.second
        argument = first.clone()
        result = function(argument)
        kept = result.clone()
        if not argument.equal(first):
            changed.append(f"the argument at {probe.site.read}")
        function(second)
        function(second[:3])
        function(first.clone().mul_(2))
        if not result.equal(kept):
            changed.append(f"an earlier result at {probe.site.read}")
    return nothing(changed, "tensors written into")


def _numbers_alone(stage: BasisStage) -> Finding:
    """Hold that coordinates carry nothing but numbers, and that decoding depends on nothing else."""
    import torch

    worst = 0.0
    for probe in _decoders(stage):
        site, decode, fresh = probe.site, probe.function, probe.fresh
        encode = encoder(stage.basis, site)
        coordinates = encode(stage.read(site))
        if type(coordinates) is not torch.Tensor:
            return holds(False, f"encode returns a {type(coordinates).__name__}", "a plain tensor")
        bare = torch.from_numpy(coordinates.detach().cpu().numpy().copy()).to(coordinates.device)
        as_encoded = decode(coordinates).clone()
        worst = max(worst, row_difference(decode(bare), as_encoded), row_difference(fresh(bare), as_encoded))
        # Decoded right after other activations were encoded; coordinates that no activation has.
        encode(stage.read(site, split="evaluation"))
        worst = max(worst, row_difference(decode(bare), as_encoded))
        for never in (torch.zeros_like(bare), bare.flip(-1), bare.flip(0), probe.second * 0.37):
            worst = max(worst, row_difference(decode(never), fresh(never)))
    return at_most(worst, stage.rounding / 100, "largest relative difference")


def _affine(stage: BasisStage) -> Finding:
    """Hold that sums of coordinates give sums of reconstructions, for coordinates that were really encoded."""
    import torch

    worst = 0.0
    for probe in _decoders(stage):
        decode, first = probe.function, probe.first
        one, other = (values.flatten(0, 1) for values in probe.as_many)
        at_zero = decode(torch.zeros_like(one)).double()
        ends = decode(one).double(), decode(other).double()
        for a, b in ((0.5, 0.5), (0.9, 0.1), (2.0, -1.0), (1.0, 1.0), (0.25, 0.0)):
            found = decode(a * one + b * other).double()
            expected = a * ends[0] + b * ends[1] + (1 - a - b) * at_zero
            scale = sum(end.norm(dim=-1) for end in (*ends, at_zero)).clamp_min(1e-30)
            worst = max(worst, float(((found - expected).norm(dim=-1) / scale).max()))
        mean = decode(first.flatten(0, 1).mean(0)).double()
        expected = decode(first).double().flatten(0, 1).mean(0)
        worst = max(worst, float((mean - expected).norm() / scale.mean()))
    return at_most(worst, stage.rounding, "largest relative departure from decode(a f + b g)")


def _matrix(stage: BasisStage) -> Finding:
    """Hold that the decoder is a matrix and a bias: one row per unit, mixtures of live and reference coordinates."""
    import torch

    worst = 0.0
    generator = torch.Generator().manual_seed(0)
    for probe in _decoders(stage):
        decode, flat = probe.function, probe.first.flatten(0, 1)
        units = flat.shape[-1]
        width = decode(flat[:1]).shape[-1]
        if units * width > _WIDEST_MATRIX:
            return not_measured(f"{units} units of width {width} are too many to read the matrix off")
        at_zero = decode(flat.new_zeros(units)).double()
        rows = decode(torch.eye(units, dtype=flat.dtype, device=flat.device)).double() - at_zero
        reference = probe.second.flatten(0, 1).mean(0)
        for share in (0.0, 0.02, 0.5, 1.0):
            kept = (torch.rand(flat.shape, generator=generator) < share).to(flat.device)
            mixed = flat.where(kept, reference)
            expected = mixed.double() @ rows + at_zero
            scale = (mixed.double().abs() @ rows.abs() + at_zero.abs()).norm(dim=-1).clamp_min(1e-30)
            worst = max(worst, float(((decode(mixed).double() - expected).norm(dim=-1) / scale).max()))
        gradient = torch.randn((3, width), generator=generator, dtype=torch.float64).to(flat)
        coordinates = flat[:3].clone().requires_grad_(True)
        with torch.enable_grad():
            written = probe.bare(coordinates)
            (product,) = torch.autograd.grad(written, coordinates, gradient.to(written.dtype))
        expected = gradient.double() @ rows.T
        worst = max(worst, float((product.double() - expected).norm() / expected.norm().clamp_min(1e-30)))
    return at_most(worst, stage.rounding, "largest relative departure from f W + b, its gradient included")


CHECKS: tuple[Check[BasisStage], ...] = (
    Check(
        "encode: the same again",
        "an activation has the same coordinates on every call, after others, and in a new basis",
        lambda stage: _again(stage, _encoders(stage)),
    ),
    Check(
        "encode: numbers alone",
        "coordinates depend on numbers, not on the tensor or memory that holds them",
        lambda stage: _in_used_memory(stage, _encoders(stage)),
    ),
    Check(
        "encode: rows alone",
        "a row's coordinates depend neither on other prompts and positions nor on the batch's shape",
        lambda stage: _rows_alone(stage, _encoders(stage)),
    ),
    Check(
        "encode: gradient modes",
        "coordinates are the same with and without gradients",
        lambda stage: _gradient_modes(stage, _encoders(stage)),
    ),
    Check(
        "encode: leaves tensors alone",
        "encoding writes neither into its argument nor into earlier results",
        lambda stage: _leaves_alone(stage, _encoders(stage)),
    ),
    Check(
        "decode: the same again",
        "coordinates have the same reconstruction on every call, after others, and in a new basis",
        lambda stage: _again(stage, _decoders(stage)),
    ),
    Check(
        "decode: coordinates alone",
        "a reconstruction depends on coordinates, not on what was encoded before",
        _numbers_alone,
    ),
    Check(
        "decode: numbers alone",
        "a reconstruction depends on numbers, not on the tensor or memory that holds them",
        lambda stage: _in_used_memory(stage, _decoders(stage)),
    ),
    Check(
        "decode: rows alone",
        "a row's reconstruction depends neither on other prompts and positions nor on the batch's shape",
        lambda stage: _rows_alone(stage, _decoders(stage)),
    ),
    Check(
        "decode: gradient modes",
        "a reconstruction is the same with and without gradients",
        lambda stage: _gradient_modes(stage, _decoders(stage)),
    ),
    Check(
        "decode: leaves tensors alone",
        "decoding writes neither into its argument nor into earlier results",
        lambda stage: _leaves_alone(stage, _decoders(stage)),
    ),
    Check("decode: affine", "sums of encoded coordinates give sums of their reconstructions", _affine),
    Check("decode: a matrix and a bias", "every mixture of live and reference units decodes as f W + b", _matrix),
)
"""In the order of the report."""
