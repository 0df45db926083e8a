"""Does a dictionary fit the task's own prompts? One that does not is refused (docs/numbers.md).

Over every token of the attribution prompts, clean and counterfactual, with y the activation at the write site and r its
reconstruction, per layer:

1. Fraction of variance unexplained, FVU = sum |y - r|^2 / sum |y - mean y|^2, with one mean over all tokens: 1 is no
   better than that mean.
2. L0, the units that are not zero, mean over tokens.
3. Calibration slope = sum <y - mean y, r - mean r> / sum |r - mean r|^2, least squares of y on r: below 1 the decoder
   writes too much, above 1 too little.

And once for all layers the loss recovered (`attribution.loss_recovered`). The beginning-of-sequence position is left
out, and what the dictionary was not trained on (`attribution.fitting.first_measured`).
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from basisbench.attribution.cost import now
from basisbench.attribution.fitting import SIDES, TaskActivations, first_measured, together
from basisbench.attribution.loss_recovered import SharedLosses, loss_recovered
from basisbench.errors import BasisError
from basisbench.protocols import CrossLayerBasis, training_of
from basisbench.types import Site

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from basisbench.attribution.context import GroupContext
    from basisbench.protocols import Basis

_log = logging.getLogger(__name__)

POOR_FVU = 0.5
"""Above it a layer is warned of."""
USELESS_FVU = 1.0
"""From it on a basis is refused: the mean activation explains as much."""

_STILL = 1e-10
"""A reconstruction whose variance is a smaller share of its square than this does not vary, but for rounding."""


@dataclass(frozen=True)
class LayerFit:
    """How well a basis fits at one site; see the module.

    Attributes:
        fvu: fraction of variance unexplained; 0 is perfect.
        l0: mean number of active units per token.
        slope: calibration slope; 1 is calibrated.
    """

    fvu: float
    l0: float
    slope: float


@dataclass(frozen=True)
class Fit:
    """How well a basis fits, per layer and as a whole; see the module.

    Attributes:
        fvu: fraction of variance unexplained; 0 is perfect.
        l0: mean number of active units per token.
        slope: calibration slope; 1 is calibrated.
        loss_recovered: share of the loss of mean ablation that does not occur; None where that loses nothing.
        seconds: what measuring it took, without the plain activations, which every cell shares.
    """

    fvu: tuple[float, ...]
    l0: tuple[float, ...]
    slope: tuple[float, ...]
    loss_recovered: float | None
    seconds: float


def measure_fit(
    basis: Basis,
    groups: Sequence[GroupContext],
    *,
    allow_poor: bool = False,
    control: bool = False,
    shared: SharedLosses | None = None,
) -> Fit:
    """Measure a dictionary on the attribution split, and refuse one that does not fit.

    Args:
        basis: a basis with reconstruction errors.
        groups: the aligned groups of the attribution split.
        allow_poor: whether it may fit no better than the mean, because the user says so.
        control: whether it is a control, which may too and of whose fit nobody is warned.
        shared: losses that the bases of these groups share, to be added to.

    Raises:
        BasisError: in some layer FVU is 1 or more; tells whether a neighbouring layer fits. Or a value is not finite,
            whatever is allowed.
    """
    start, shared_before = now(groups[0].model), _shared_seconds(groups)
    layers = fit_of_layers(basis, groups)
    _judge(basis, groups, layers, allow_poor=allow_poor or control)
    if not control:
        _warn_of_poor_layers(basis, groups, layers)
    seconds = now(groups[0].model) - start - (_shared_seconds(groups) - shared_before)
    recovered, of_losses = loss_recovered(basis, groups, {} if shared is None else shared)
    if recovered is not None and not math.isfinite(recovered):
        raise BasisError(f"basis '{basis.name}': with its reconstructions in place the model's loss is not finite")
    fvu, l0, slope = zip(*((each.fvu, each.l0, each.slope) for each in layers), strict=True)
    return Fit(fvu, l0, slope, recovered, seconds + of_losses)


def _shared_seconds(groups: Sequence[GroupContext]) -> float:
    """Return what plain activations have cost, which is at the cost of all cells."""
    return sum(group.ledger.fresh().seconds for group in groups)


def fit_of_layers(basis: Basis, groups: Sequence[GroupContext]) -> list[LayerFit]:
    """Measure a dictionary at each of its sites; nothing is refused.

    Args:
        basis: a basis with reconstruction errors.
        groups: the aligned groups of the attribution split.
    """
    import torch

    found, first = [_Moments() for _ in basis.sites], training_of(basis).first_position
    with torch.no_grad():
        for contexts in together(groups, basis):
            for site, moments in zip(basis.sites, found, strict=True):
                for context in contexts:
                    start = first_measured(context.pairs, first)
                    for side in SIDES:
                        units, error = context.coordinates(basis, site, side)
                        if error is None:
                            raise ValueError(f"basis '{basis.name}' is exact; there is no fit to measure")
                        written = context.activation(site.write, side)[:, start:].flatten(0, 1)
                        active = (units[:, start:] != 0).sum()
                        moments.add(written.double(), error[:, start:].flatten(0, 1).double(), int(active))
    return [moments.fit() for moments in found]


@dataclass
class _Moments:
    """Sums over tokens that come in batches, around the means so far: numerically as good as all at once.

    Chan, Golub and LeVeque 1979 ("Updating formulae and a pairwise algorithm for computing sample variances").
    """

    tokens: int = 0
    active: int = 0
    squared_error: float = 0.0
    squared: float = 0.0
    _means: list[Tensor] = field(default_factory=list)
    _centred: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])

    def add(self, y: Float[Tensor, "token d"], error: Float[Tensor, "token d"], active: int) -> None:
        """Take some more tokens: activations, errors, and how many units are active in all of them together."""
        here, written = len(y), y - error
        means = [y.mean(0), written.mean(0)]
        away_y, away_written = y - means[0], written - means[1]
        moved = [new - old for new, old in zip(means, self._means or means, strict=True)]
        weight = self.tokens * here / (self.tokens + here)
        pairs = ((away_y, away_y, 0, 0), (away_written, away_written, 1, 1), (away_y, away_written, 0, 1))
        for index, (one, other, first, second) in enumerate(pairs):
            self._centred[index] += float((one * other).sum()) + weight * float(moved[first] @ moved[second])
        share = here / (self.tokens + here)
        self._means = [old + share * away for old, away in zip(self._means or means, moved, strict=True)]
        self.tokens, self.active = self.tokens + here, self.active + active
        self.squared_error += float(error.pow(2).sum())
        self.squared += float(written.pow(2).sum())

    def fit(self) -> LayerFit:
        """Return what follows for a layer."""
        of_y, of_written, of_both = self._centred
        fvu = 0.0
        if self.squared_error:
            fvu = self.squared_error / of_y if of_y else math.inf
        return LayerFit(
            fvu=fvu,
            l0=self.active / self.tokens,
            slope=1.0 if of_written <= _STILL * self.squared else of_both / of_written,
        )


def fraction_unexplained(y: Float[Tensor, "token d"], error: Float[Tensor, "token d"]) -> float:
    """Return FVU; 0 where nothing is left out, even of what does not vary."""
    squared = error.pow(2).sum()
    return float(squared / (y - y.mean(0)).pow(2).sum()) if squared else 0.0


def calibration_slope(y: Float[Tensor, "token d"], reconstruction: Float[Tensor, "token d"]) -> float:
    """Return the factor that brings the reconstruction's variation closest to the activation's.

    1 where the reconstruction does not vary, but for rounding: nothing is written too strongly then, and FVU, which is
    1 or more, tells the rest.
    """
    centred = reconstruction - reconstruction.mean(0)
    spread = centred.pow(2).sum()
    if spread <= _STILL * reconstruction.pow(2).sum():
        return 1.0
    return float(((y - y.mean(0)) * centred).sum() / spread)


def _judge(basis: Basis, groups: Sequence[GroupContext], layers: Sequence[LayerFit], *, allow_poor: bool) -> None:
    """Refuse a basis that explains nothing in some layer."""
    task = _task_of(basis, groups)
    for site, found in zip(basis.sites, layers, strict=True):
        if not math.isfinite(found.fvu) or not math.isfinite(found.slope):
            raise BasisError(
                f"basis '{basis.name}' explains nothing at {site.write} on the prompts of {task}: FVU "
                f"{found.fvu:.3g} in layer {site.layer}; is some weight not a number?"
            )
    useless = [(site, found) for site, found in zip(basis.sites, layers, strict=True) if found.fvu >= USELESS_FVU]
    if useless and not allow_poor:
        site, found = useless[0]
        more = f" (and in {len(useless) - 1} more)" if useless[1:] else ""
        raise BasisError(
            f"basis '{basis.name}' explains nothing at {site.write} on the prompts of {task}: FVU {found.fvu:.2f} in "
            f"layer {site.layer}{more}, where the mean activation alone has 1; "
            f"{_elsewhere(basis, site, groups) or 'is it a dictionary of this model and hook?'}; "
            "--allow-poor-fit runs it all the same, marked"
        )


def _warn_of_poor_layers(basis: Basis, groups: Sequence[GroupContext], layers: Sequence[LayerFit]) -> None:
    poor = [(site, found) for site, found in zip(basis.sites, layers, strict=True) if found.fvu > POOR_FVU]
    if poor:
        told = ", ".join(f"{found.fvu:.2f} in layer {site.layer}" for site, found in poor)
        hint = _elsewhere(basis, poor[0][0], groups)
        told += hint and f"; {hint}"
        _log.warning("basis '%s' fits the prompts of %s badly: FVU %s", basis.name, _task_of(basis, groups), told)


def _task_of(basis: Basis, groups: Sequence[GroupContext]) -> str:
    first = training_of(basis).first_position
    return f"'{groups[0].pairs.task}'" + (f" (from position {first} on, as it was trained)" if first else "")


def _elsewhere(basis: Basis, site: Site, groups: Sequence[GroupContext]) -> str:
    """Say whether the dictionary of a site fits a neighbouring layer; "" where that cannot be tried."""
    if isinstance(basis, CrossLayerBasis):
        return ""
    for layer in (site.layer - 1, site.layer + 1):
        if not 0 <= layer < groups[0].model.layers:
            continue
        there = Site(layer, _in_layer(site.read, layer), _in_layer(site.write, layer))
        fvu = _fvu_at(basis, site, there, groups)
        if fvu <= POOR_FVU:
            return f"it fits layer {layer} (FVU {fvu:.2f}): is it in the wrong layer?"
    return "it fits no neighbouring layer either: is it a dictionary of this model and hook?"


def _in_layer(hook: str, layer: int) -> str:
    return re.sub(r"^blocks\.\d+\.", f"blocks.{layer}.", hook)


def _fvu_at(basis: Basis, site: Site, there: Site, groups: Sequence[GroupContext]) -> float:
    """Return the FVU of the dictionary of one site on the activations of another."""
    import torch

    written, errors = [], []
    of_task = partial(TaskActivations(groups), first=training_of(basis).first_position)
    with torch.no_grad():
        for x, y in zip(of_task(there.read), of_task(there.write), strict=True):
            written.append(y)
            errors.append(y - basis.decode(site, basis.encode(site, x)))
    return fraction_unexplained(torch.cat(written).double(), torch.cat(errors).double())
