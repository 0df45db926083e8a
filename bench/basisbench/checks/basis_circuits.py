"""A basis inside the model: write-back, both ends of the curve, and the fast path against the definition."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from basisbench.checks.finding import Check, Finding, at_most, information
from basisbench.checks.stage import BasisStage, contexts_of
from basisbench.circuits.evaluate import evaluate
from basisbench.circuits.plain import PlainPass
from basisbench.circuits.ranking import Ranking, rank
from basisbench.circuits.reference import reference_outputs
from basisbench.models.sites import written_kinds
from basisbench.types import Ablation, ErrorPolicy, Scores

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from basisbench.circuits.circuit import CircuitMask
    from basisbench.circuits.group import GroupPair

_ABLATIONS: tuple[Ablation, ...] = ("mean", "counterfactual", "zero")


def _bound(stage: BasisStage) -> float:
    """Return how far logits may differ, relative to the largest: rounding adds up over layers."""
    import torch

    return 1e-9 if stage.model.dtype == torch.float64 else 2e-3


def _ranking(stage: BasisStage, policy: ErrorPolicy) -> Ranking:
    """Rank the nodes by random scores."""
    import torch

    generator = torch.Generator().manual_seed(0)
    units, errors = [], []
    for site in stage.basis.sites:
        with torch.no_grad():
            f = stage.basis.encode(site, stage.read(site))
        units.append(torch.randn(f.shape[1:], generator=generator).to(f.device))
        errors.append(torch.randn(f.shape[1], generator=generator).to(f.device))
    return rank(Scores(tuple(units), None if stage.basis.exact else tuple(errors)), policy=policy)


def _sizes(nodes: int) -> list[int]:
    """Return sizes at which units are sliced, computed densely, and nearly all kept."""
    return sorted({1, nodes // 100, nodes // 12, nodes // 2, nodes - nodes // 25})


def _everything_kept(stage: BasisStage) -> Finding:
    import torch

    group, ranking = stage.group, _ranking(stage, "node")
    batch = group.evaluation.batch
    plain = PlainPass(stage.model, stage.basis, batch, group.reference(stage.basis, "mean"))
    with torch.inference_mode():
        expected = stage.model.logits(batch.clean)
        found = plain.logits(ranking.mask([ranking.nodes], [False]))[0]
    worst = float((found - expected).double().abs().max() / expected.double().abs().max())
    return at_most(worst, _bound(stage), "logits differ from the unhooked model's by")


def _full(stage: BasisStage) -> Finding:
    import torch

    group = contexts_of(stage.model, stage.prompts)
    batch = group.evaluation.batch
    with torch.inference_mode():
        expected = batch.metric(stage.model.logits(batch.clean))
    return at_most(_relative(group.full, expected, expected), _bound(stage), "F(M) differs from the plain model's by")


def _empty(stage: BasisStage, ablation: Ablation) -> Finding:
    """Hold that all nodes and errors at their reference give F(0) of the family, taken at the family's outputs."""
    group, ranking = contexts_of(stage.model, stage.prompts), _ranking(stage, "node")
    found = _evaluated(stage, group, ranking, [(0, False)], ablation, fast=False)[0]
    expected = group.empty(stage.basis, ablation)
    difference = _relative(found, expected, group.full)
    if ablation == "mean" and not _ends_at_the_family_output(stage):
        return information(f"differs by {difference:.3g}: a norm lies between its sites and the family's output")
    return at_most(difference, _bound(stage), "F(0) differs from the family's by")


def _ends_at_the_family_output(stage: BasisStage) -> bool:
    """Whether a mean at the write sites is a mean at the family's outputs."""
    model = stage.model
    outputs = reference_outputs(stage.basis, "mean", stage.group.attribution, stage.group.evaluation)
    for site, output in zip(stage.basis.sites, outputs, strict=True):
        passed_on = {
            model.place(model.hook(kind, site.layer))
            for kind in written_kinds()
            if model.affine_output(kind, site.layer) is not None
        }
        if model.place(site.write) not in {model.place(output), *passed_on}:
            return False
    return True


def _curve(stage: BasisStage, policy: ErrorPolicy) -> Finding:
    """Hold that fast passes give what plain ones give, on random circuits and their complements."""
    if policy != "node" and stage.basis.exact:
        return information("the same as 'node': an exact basis has no errors")
    group, ranking = contexts_of(stage.model, stage.prompts), _ranking(stage, policy)
    points = [(size, complement) for size in _sizes(ranking.nodes) for complement in (False, True)]
    worst = 0.0
    for ablation in _ABLATIONS:
        found, expected = (_evaluated(stage, group, ranking, points, ablation, fast=fast) for fast in (True, False))
        worst = max(worst, _relative(found, expected, expected))
    return at_most(worst, _bound(stage), f"{3 * len(points)} circuits; largest relative difference")


def _evaluated(
    stage: BasisStage,
    group: GroupPair,
    ranking: Ranking,
    points: list[tuple[int, bool]],
    ablation: Ablation,
    *,
    fast: bool = True,
) -> Float[Tensor, "circuit pair"]:
    """Evaluate circuits as a run does, or by definition."""

    def masks(chosen: slice) -> CircuitMask:
        return ranking.mask([size for size, _ in points[chosen]], [complement for _, complement in points[chosen]])

    return evaluate(group, stage.basis, ablation, masks, len(points), fast=fast).metric


def _curve_again(stage: BasisStage) -> Finding:
    """Hold that a curve is the same in a second run, with other runs in between and with a basis built anew."""
    ranking = _ranking(stage, "node")
    points = [(size, complement) for size in _sizes(ranking.nodes) for complement in (False, True)]
    again = replace(stage)
    runs = [_evaluated(each, contexts_of(each.model, each.prompts), ranking, points, "mean") for each in (stage, stage)]
    _evaluated(stage, contexts_of(stage.model, stage.prompts), ranking, points[:3], "counterfactual")
    runs.append(_evaluated(again, contexts_of(again.model, again.prompts), ranking, points, "mean"))
    worst = max(_relative(run, runs[0], runs[0]) for run in runs[1:])
    return at_most(worst, _bound(stage) / 100, "largest relative difference")


def _relative(found: Tensor, expected: Tensor, scale: Tensor) -> float:
    """Return the largest difference relative to the largest value of the scale."""
    difference = (found.double() - expected.double()).abs().max() / scale.double().abs().max().clamp_min(1e-30)
    return float(difference) if difference.isfinite() else float("inf")


CHECKS: tuple[Check[BasisStage], ...] = (
    Check("everything kept", "with every node and error kept, logits are the unhooked model's", _everything_kept),
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
    Check(
        "curve: errors ranked",
        "the fast path equals a plain evaluation under every ablation",
        lambda stage: _curve(stage, "node"),
    ),
    Check(
        "curve: errors kept",
        "the fast path equals a plain evaluation under every ablation",
        lambda stage: _curve(stage, "keep"),
    ),
    Check(
        "curve: errors ablated",
        "the fast path equals a plain evaluation under every ablation",
        lambda stage: _curve(stage, "ablate"),
    ),
    Check("curve: the same again", "a second run gives the same values", _curve_again),
)
"""In the order of the report."""
