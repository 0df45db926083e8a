"""A basis inside the model: write-back, both ends of the curve, and the harness's fast path against the definition."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from basisbench.checks.finding import Check, Finding, at_most, information
from basisbench.checks.left_behind import logits_of
from basisbench.checks.stage import BasisStage
from basisbench.circuits.evaluate import evaluate
from basisbench.circuits.ranking import Ranking, rank
from basisbench.circuits.reference import reference_outputs
from basisbench.types import Ablation, ErrorPolicy, Scores

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from basisbench.circuits.circuit import CircuitMask

_ABLATIONS: tuple[Ablation, ...] = ("mean", "counterfactual", "zero")

Circuit = tuple[int, bool]
"""How many nodes are kept, and whether these are the complement."""


def _evaluated(
    stage: BasisStage, ranking: Ranking, circuits: Sequence[Circuit], ablation: Ablation, *, fast: bool
) -> Float[Tensor, "circuit pair"]:
    """Evaluate circuits as a run does, or by definition."""

    def masks(chosen: slice) -> CircuitMask:
        return ranking.mask([size for size, _ in circuits[chosen]], [complement for _, complement in circuits[chosen]])

    return evaluate(stage.group, stage.basis, ablation, masks, len(circuits), fast=fast).metric


def _ranking(stage: BasisStage, policy: ErrorPolicy = "coordinates") -> Ranking:
    """Rank units and errors by random scores."""
    import torch

    generator = torch.Generator().manual_seed(0)
    units, errors = [], []
    for site in stage.basis.sites:
        f = stage.encode(site, stage.read(site))
        units.append(torch.randn(f.shape[1:], generator=generator).to(f.device))
        width = 1 if policy == "node" else stage.activation(site.write).shape[-1]
        errors.append(torch.randn(f.shape[1], width, generator=generator).to(f.device))
    return rank(Scores(tuple(units), None if stage.basis.exact else tuple(errors)), policy=policy)


def _unhooked(stage: BasisStage) -> Float[Tensor, " pair"]:
    batch = stage.group.evaluation.batch
    return batch.metric(logits_of(stage.model, batch.clean)[0][:, -1])


def _bound(stage: BasisStage) -> float:
    """Return how far metrics may differ, relative to the largest: rounding adds up over layers."""
    return 1e-9 if str(stage.model.dtype) == "torch.float64" else 2e-3


def _relative(found: Tensor, expected: Tensor, scale: Tensor) -> float:
    """Return the largest difference relative to the largest value of the scale."""
    difference = (found.double() - expected.double()).abs().max() / scale.double().abs().max().clamp_min(1e-30)
    return float(difference) if difference.isfinite() else float("inf")


def _everything_kept(stage: BasisStage) -> Finding:
    ranking, expected = _ranking(stage), _unhooked(stage)
    found = _evaluated(stage, ranking, [(ranking.nodes, False)], "mean", fast=False)
    return at_most(
        _relative(found, expected, expected), _bound(stage), "the metric differs from the unhooked model's by"
    )


def _full(stage: BasisStage) -> Finding:
    expected = _unhooked(stage)
    return at_most(_relative(stage.group.full, expected, expected), _bound(stage), "F(M) differs from the model's by")


def _empty(stage: BasisStage, ablation: Ablation) -> Finding:
    """Hold that all nodes and errors at their reference give F(0) of the family, taken at the family's outputs."""
    found = _evaluated(stage, _ranking(stage), [(0, False)], ablation, fast=False)[0]
    difference = _relative(found, stage.group.empty(stage.basis, ablation), stage.group.full)
    if ablation == "mean" and not _ends_at_the_family_output(stage):
        return information(f"differs by {difference:.3g}: a norm lies between its sites and the family's output")
    return at_most(difference, _bound(stage), "F(0) differs from the family's by")


def _ends_at_the_family_output(stage: BasisStage) -> bool:
    """Whether a mean at the write sites is a mean at the family's outputs."""
    model = stage.model
    layers = [site.layer for site in stage.basis.sites]
    outputs = reference_outputs(stage.basis.family, layers, "mean", stage.group.attribution, stage.group.evaluation)
    for site, output in zip(stage.basis.sites, outputs, strict=True):
        passed_on = {
            model.place(model.hook(kind, site.layer))
            for kind in model.written_kinds()
            if model.affine_output(kind, site.layer) is not None
        }
        if model.place(site.write) not in {model.place(output), *passed_on}:
            return False
    return True


def _curve(stage: BasisStage) -> Finding:
    """Hold that the fast path gives what the plain pass gives, on random circuits and their complements."""
    worst, count = 0.0, 0
    policies: tuple[ErrorPolicy, ...] = ("coordinates",) if stage.basis.exact else ("coordinates", "node")
    for policy in policies:
        ranking = _ranking(stage, policy)
        # Sizes at which units are sliced, computed densely, and nearly all kept.
        sizes = sorted({1, ranking.nodes // 100, ranking.nodes // 2, ranking.nodes - ranking.nodes // 25})
        circuits = [(size, complement) for size in sizes for complement in (False, True)]
        for ablation in _ABLATIONS:
            found, expected = (_evaluated(stage, ranking, circuits, ablation, fast=fast) for fast in (True, False))
            worst, count = max(worst, _relative(found, expected, expected)), count + len(circuits)
    return at_most(worst, _bound(stage), f"{count} circuits; largest relative difference")


CHECKS: tuple[Check[BasisStage], ...] = (
    Check("everything kept", "with every node and error kept, the metric is the unhooked model's", _everything_kept),
    Check("F(M)", "the full end of the curve is the plain model", _full),
    Check(
        "F(0), mean",
        "every node and error at its mean is the family's output at its mean",
        lambda stage: _empty(stage, "mean"),
    ),
    Check(
        "F(0), counterfactual",
        "every node and error at its counterfactual value is the family's output at its own",
        lambda stage: _empty(stage, "counterfactual"),
    ),
    Check("curve", "the fast path equals a plain evaluation under every ablation", _curve),
)
"""In the order of the report."""
