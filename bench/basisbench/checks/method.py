"""All checks of a method: the shape of its scores, what they may depend on, and what it must leave as it was.

1. It scores neurons, a dictionary and a cross-layer transcoder, all three stand-ins with random weights.
2. It does so again in a new context, after other cells, under other random states, and through a context that has
   nothing but the members of `ScoringContext`: the same scores must come out.
3. Its scores of some nodes are compared with exact patching: information on their sign and size, not a bound.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import islice, product
from typing import TYPE_CHECKING, cast, get_args

from basisbench.checks import left_behind
from basisbench.checks.basis_claims import complaints
from basisbench.checks.finding import Check, Finding, Property, at_most, holds, information, nothing, run_checks
from basisbench.checks.left_behind import ModelState, state_of
from basisbench.checks.stage import Prompts, find_prompts
from basisbench.checks.stand_ins import Kind, OnlyTheProtocol, stand_in
from basisbench.runs.layer_subset import restrict

if TYPE_CHECKING:
    from basisbench.attribution.context import GroupContext
    from basisbench.models.model import Model
    from basisbench.protocols import Basis, Method, ScoringContext
    from basisbench.types import ErrorPolicy, Scores

KINDS: tuple[Kind, ...] = get_args(Kind)

_POLICIES: tuple[ErrorPolicy, ...] = ("coordinates", "node")
"""What error nodes may be: each coordinate of the error, or all together."""

_SAME = 1e-5
"""Largest relative difference of scores that are the same."""

_SAMPLE = 120
"""Nodes that are patched one by one."""


@dataclass(frozen=True, eq=False)
class MethodStage:
    """A method on one model.

    Attributes:
        method: the method.
        model: the model.
        prompts: what is scored.
        others: other prompts, for a cell in between.
        before: the model before anything was scored.
    """

    method: Method
    model: Model
    prompts: Prompts
    others: Prompts
    before: ModelState

    def context(
        self, *, seed: int = 0, others: bool = False, error_policy: ErrorPolicy = "coordinates"
    ) -> GroupContext:
        """Return the attribution split as a run gives it to a method, with nothing computed yet."""
        context = (self.others if others else self.prompts).on(self.model, seed=seed).attribution
        context.start("mean", error_policy=error_policy)
        return context

    @cached_property
    def bases(self) -> Mapping[Kind, Basis]:
        """A basis of each kind on the last two layers: what is done again and again need not take long."""
        return {kind: restrict(stand_in(kind, self.model), range(self.model.layers)[-2:]) for kind in KINDS}

    @cached_property
    def scores(self) -> Mapping[Kind, Scores]:
        """The first scores of each kind of basis."""
        return {kind: self.method.score(self.context(), basis) for kind, basis in self.bases.items()}


def check_method(method: Method, model: Model) -> Iterator[Property]:
    """Yield every property of a method.

    Raises:
        TaskError: no registered task gives prompts for the model's tokenizer.
    """
    prompts = list(islice(find_prompts(model, shortest_first=True), 2))
    before = state_of(model, model.tokens(prompts[0].evaluation.clean))
    stage = MethodStage(method, model, prompts[0], prompts[-1], before)
    yield from run_checks(f"method {method.name}", CHECKS, stage)
    yield from run_checks(f"method {method.name}", (*left_behind.CHECKS, *INFORMATION), stage)


def _metadata(stage: MethodStage) -> Finding:
    return nothing(complaints(stage.method.name, stage.method.summary), "mistakes")


def _shapes(stage: MethodStage, kind: Kind) -> Finding:
    """Hold that every node has one finite score, whether each coordinate of the error is a node or all are one."""
    basis, found = stage.bases[kind], list[str]()
    for policy in _POLICIES[: 1 if basis.exact else None]:
        context = stage.context(error_policy=policy)
        scores = stage.method.score(context, basis)
        if len(scores.units) != len(basis.sites):
            return holds(False, f"{len(scores.units)} tensors for {len(basis.sites)} sites", "one per site")
        if (scores.errors is None) != basis.exact or (scores.errors and len(scores.errors) != len(basis.sites)):
            return holds(False, "errors are there for an exact basis, or missing", "errors where the basis has them")
        for index, site in enumerate(basis.sites):
            units, _ = context.coordinates(basis, site, "clean")
            here = [(scores.units[index], tuple(units.shape[1:]))]
            if scores.errors is not None:
                nodes = 1 if policy == "node" else context.activation(site.write, "clean").shape[-1]
                here.append((scores.errors[index], (units.shape[1], nodes)))
            for values, shape in here:
                if tuple(values.shape) != shape:
                    found.append(f"shape {tuple(values.shape)} instead of {shape} at {site.write} (errors: {policy})")
                elif not values.is_floating_point() or not values.isfinite().all():
                    found.append(f"values at {site.write} are not finite numbers")
                elif values.requires_grad:
                    found.append(f"scores at {site.write} require a gradient")
    return nothing(found, f"mistakes on {basis.name}")


def _difference(found: Scores, expected: Scores) -> float:
    """Return the largest difference of a score, relative to the largest score of its kind and site."""
    worst = 0.0
    for one, other in ((found.units, expected.units), (found.errors or (), expected.errors or ())):
        for values, reference in zip(one, other, strict=True):
            if values.shape != reference.shape or not values.isfinite().all():
                return float("inf")
            size = float(reference.detach().abs().max()) or 1e-30
            worst = max(worst, float((values.detach() - reference.detach()).abs().max()) / size)
    return worst


def _again(stage: MethodStage) -> Finding:
    """Hold that scores are the same in a new context, after other cells, under another random state."""
    import random

    import torch

    worst, state = 0.0, random.getstate()
    stage.scores  # noqa: B018 -- the first scores come before any other cell
    with torch.random.fork_rng(devices=[]):
        for turn, (kind, basis) in enumerate(stage.bases.items()):
            torch.manual_seed(turn + 1)
            random.seed(turn + 1)
            other = stage.bases[KINDS[turn - 1]]
            stage.method.score(stage.context(others=True), other)
            shared = stage.context()
            stage.method.score(shared, other)
            for context in (stage.context(), shared):
                worst = max(worst, _difference(stage.method.score(context, basis), stage.scores[kind]))
    random.setstate(state)
    return at_most(worst, _SAME, "largest relative difference")


def _context_alone(stage: MethodStage) -> Finding:
    context = cast("ScoringContext", OnlyTheProtocol(stage.context()))
    found = stage.method.score(context, stage.bases["dictionary"])
    return at_most(_difference(found, stage.scores["dictionary"]), _SAME, "largest relative difference")


def _leaves_context(stage: MethodStage) -> Finding:
    """Hold that what the context gave is unchanged for the next method."""
    changed = list[str]()
    for basis in stage.bases.values():
        context = OnlyTheProtocol(stage.context())
        stage.method.score(cast("ScoringContext", context), basis)
        changed += [f"{member} for {basis.name}" for member, now, then in context.given if not now.equal(then)]
    return nothing(changed, "tensors changed")


def _interrupted(stage: MethodStage) -> Finding:
    """Hold that an error in the middle of scoring ends it; what it leaves behind is looked at afterwards."""
    swallowed = list[str]()
    for basis, uses in product(stage.bases.values(), (0, 1, 3, 6)):
        context = OnlyTheProtocol(stage.context(), uses)
        try:
            stage.method.score(cast("ScoringContext", context), basis)
        except Exception:
            continue
        if context.interrupted:
            swallowed.append(f"after {uses} uses of the context for {basis.name}")
    return nothing(swallowed, "errors turned into scores")


def _seed(stage: MethodStage) -> Finding:
    scores = stage.method.score(stage.context(seed=1), stage.bases["dictionary"])
    changed = _difference(scores, stage.scores["dictionary"]) > _SAME
    return information("they depend on the seed" if changed else "they do not depend on the seed")


def _sign(stage: MethodStage) -> Finding:
    """Correlate scores with the exact effect of patching single nodes, half of them the best, half drawn."""
    import torch

    basis, scores, context = stage.bases["dictionary"], stage.scores["dictionary"], stage.context()
    generator = torch.Generator().manual_seed(0)
    expected, effects = [], []
    baseline = context.clean_metric()
    for index, site in enumerate(basis.sites):
        clean, _ = context.coordinates(basis, site, "clean")
        other, _ = context.target(basis, site)
        nodes = (clean != other).any(0).nonzero()
        if not len(nodes):
            continue
        values = scores.units[index].detach()[nodes[:, 0], nodes[:, 1]]
        many = _SAMPLE // len(basis.sites) // 2
        drawn = torch.randperm(len(nodes), generator=generator)[:many].to(nodes.device)
        chosen = torch.cat([values.abs().argsort(descending=True)[:many], drawn]).unique()
        positions, units = nodes[chosen].T.tolist()
        effects.append((context.patched_metric(basis, site, positions, units) - baseline).mean(1).double())
        expected.append(values[chosen].double())
    found, true = torch.cat(expected), torch.cat(effects)
    if float(found.std()) == 0:
        return information(f"all {len(found)} scores are equal")
    correlation = float(torch.corrcoef(torch.stack([found, true]))[0, 1])
    large = true.abs() >= true.abs().median()
    same = float(((found > 0) == (true > 0))[large].double().mean())
    return information(
        f"{len(found)} nodes of {basis.name}: correlation {correlation:.2f} with exact patching; the same sign for "
        f"{same:.0%} of the larger half"
    )


CHECKS: tuple[Check[MethodStage], ...] = (
    Check("metadata", "name and a summary of one line are there", _metadata),
    Check(
        "scores of neurons", "every node of a basis without errors has a score", lambda stage: _shapes(stage, "neurons")
    ),
    Check(
        "scores of a dictionary",
        "every node of a basis with errors has a score, errors too",
        lambda stage: _shapes(stage, "dictionary"),
    ),
    Check(
        "scores of a cross-layer transcoder",
        "every node of a basis that writes at later layers has a score",
        lambda stage: _shapes(stage, "cross-layer transcoder"),
    ),
    Check("the same again", "scores do not depend on earlier cells, contexts or random states", _again),
    Check("context alone", "it asks for nothing but ScoringContext, so never for the evaluation split", _context_alone),
    Check("leaves the context alone", "tensors that the context gives stay as they are", _leaves_context),
    Check("interruption", "an error of the context ends the scoring", _interrupted),
)
"""In the order of the report; what it leaves behind follows."""

INFORMATION: tuple[Check[MethodStage], ...] = (
    Check("seed", "whether scores depend on the cell's seed", _seed),
    Check("sign", "agreement with exact patching", _sign),
)
"""What is told and held to no bound."""
