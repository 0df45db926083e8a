"""Encoder and decoder as functions: of their argument alone, row by row, the decoder affine.

1. Activations of two sets of prompts are encoded again and again: after others, among other rows, by a basis that was
   just built. Coordinates must not notice.
2. Their coordinates are decoded in the same ways, and by a basis that never saw an activation.
3. Sums and mixtures of coordinates must give the same sums of reconstructions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

from basisbench.checks.finding import Check, Finding, at_most, nothing
from basisbench.checks.stage import BasisStage, row_difference, without_gradients
from basisbench.types import Site

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

Which = Literal["encode", "decode"]


@dataclass(frozen=True, eq=False)
class Probe:
    """One function of a basis at one site, and what it is tried on.

    Attributes:
        site: the site.
        function: the encoder or the decoder, without gradients.
        first: its arguments for one set of prompts.
        second: its arguments for another, smaller set.
    """

    site: Site
    function: Callable[[Tensor], Tensor]
    first: Float[Tensor, "pair pos d"]
    second: Float[Tensor, "other pos d"]


def _probes(stage: BasisStage, which: Which) -> Iterator[Probe]:
    """Yield the encoder or the decoder of each site, with activations or with their coordinates."""
    for site in stage.basis.sites:
        first, second = stage.read(site), stage.read_others(site)
        if which == "encode":
            yield Probe(site, partial(stage.encode, site), first, second)
        else:
            first, second = stage.encode(site, first).clone(), stage.encode(site, second).clone()
            yield Probe(site, partial(stage.decode, site), first, second)


def _again(stage: BasisStage, which: Which) -> Finding:
    """Hold that a function gives the same for the same numbers, whatever was before and wherever they lie."""
    import torch

    worst, new = 0.0, stage.fresh()
    for probe in _probes(stage, which):
        function, first = probe.function, probe.first
        expected = function(first).clone()
        reused = first.flip(0)
        function(reused)
        reused.copy_(first)
        others = [function(reused), without_gradients(getattr(new, which), probe.site, first)]
        function(probe.second)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            others.append(function(first))
        worst = max(worst, *(row_difference(other, expected) for other in others))
    return at_most(worst, stage.rounding / 100, "largest relative difference")


def _rows_alone(stage: BasisStage, which: Which) -> Finding:
    """Hold that what comes out for a row does not depend on the rows beside it, nor on the shape of the batch."""
    import torch

    worst = 0.0
    for probe in _probes(stage, which):
        function, first = probe.function, probe.first
        expected = function(first).clone()
        order = torch.randperm(first.shape[:-1].numel(), generator=torch.Generator().manual_seed(0)).to(first.device)
        mixed = first.flip(0)
        mixed[:, ::3] = first[:, ::3]
        for found, same in (
            (torch.stack([function(row) for row in first[0]]), expected[0]),
            (function(first.flatten(0, 1)[order]), expected.flatten(0, 1)[order]),
            (function(mixed)[:, ::3], expected[:, ::3]),
            (function(first[:, -1:]), expected[:, -1:]),
            (function(first.unsqueeze(0).expand(2, -1, -1, -1))[1], expected),
        ):
            worst = max(worst, row_difference(found, same))
    return at_most(worst, stage.rounding, "largest relative difference of a row")


def _leaves_alone(stage: BasisStage, which: Which) -> Finding:
    """Hold that a function writes neither into its argument nor into what it returned before."""
    changed = []
    for probe in _probes(stage, which):
        argument = probe.first.clone()
        result = probe.function(argument)
        kept = result.clone()
        if not argument.equal(probe.first):
            changed.append(f"the argument at {probe.site.read}")
        probe.function(probe.first * 2)
        probe.function(probe.second)
        if not result.equal(kept):
            changed.append(f"an earlier result at {probe.site.read}")
    return nothing(changed, "tensors written into")


def _coordinates_alone(stage: BasisStage) -> Finding:
    """Hold that decoding knows nothing of the activation but its coordinates."""
    worst, new = 0.0, stage.fresh()
    for site in stage.basis.sites:
        x = stage.read(site)
        f = stage.encode(site, x)
        written, bare = stage.decode(site, f).clone(), f.clone()
        stage.encode(site, x.flip(0))
        for found in (stage.decode(site, bare), without_gradients(new.decode, site, bare)):
            worst = max(worst, row_difference(found, written))
    return at_most(worst, stage.rounding / 100, "largest relative difference")


def _affine(stage: BasisStage) -> Finding:
    """Hold that sums and mixtures of encoded coordinates decode as f W + b does, and have its gradient."""
    import torch

    worst = 0.0
    generator = torch.Generator().manual_seed(0)
    for probe in _probes(stage, "decode"):
        one, other = probe.first[: len(probe.second)], probe.second[: len(probe.first)]
        zero, first, second = (probe.function(f).double() for f in (torch.zeros_like(one), one, other))
        sizes = torch.stack([zero, first, second]).norm(dim=-1).sum(0).unsqueeze(-1)
        for a, b in ((0.5, 0.5), (2.0, -1.0), (1.0, 1.0), (0.25, 0.0)):
            expected = a * first + b * second + (1 - a - b) * zero
            worst = max(worst, row_difference(probe.function(a * one + b * other).double(), expected, sizes))
        kept = (torch.rand(one.shape, generator=generator) < 0.5).to(one.device)  # live and reference units
        both = probe.function(one.where(kept, other)).double() + probe.function(other.where(kept, one)).double()
        worst = max(worst, row_difference(both, first + second, sizes))
        point = one.clone().requires_grad_(True)
        weights = torch.randn(first.shape, generator=generator, dtype=torch.float64).to(first.device)
        with torch.enable_grad():
            written = stage.basis.decode(probe.site, point)
            (gradient,) = torch.autograd.grad(written, point, weights.to(written.dtype))
        along = (gradient.double() * (other - one).double()).sum(-1, keepdim=True)
        scale = weights.norm(dim=-1, keepdim=True) * sizes
        worst = max(worst, row_difference(along, (weights * (second - first)).sum(-1, keepdim=True), scale))
    return at_most(worst, stage.rounding, "largest relative departure from f W + b, its gradient included")


def _both(name: str, promise: str, measure: Callable[[BasisStage, Which], Finding]) -> Iterator[Check[BasisStage]]:
    """Yield a property of the encoder and of the decoder."""
    yield Check(f"encode: {name}", promise.format("coordinates"), lambda stage: measure(stage, "encode"))
    yield Check(f"decode: {name}", promise.format("reconstructions"), lambda stage: measure(stage, "decode"))


CHECKS: tuple[Check[BasisStage], ...] = (
    *_both("the same again", "{} are the same on every call, after others, and in a new basis", _again),
    *_both("rows alone", "{} depend neither on other prompts and positions nor on the batch's shape", _rows_alone),
    *_both(
        "leaves tensors alone", "computing {} writes neither into the argument nor into earlier ones", _leaves_alone
    ),
    Check(
        "decode: coordinates alone",
        "a reconstruction depends on coordinates, not on what was encoded before",
        _coordinates_alone,
    ),
    Check("decode: affine", "sums and mixtures of coordinates decode as f W + b", _affine),
)
"""In the order of the report."""
