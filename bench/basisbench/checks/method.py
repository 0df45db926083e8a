"""All checks of a method: the shape of its scores, what they may depend on, and what it must leave as it was.

1. It scores neurons, a dictionary and a cross-layer transcoder on short prompts; the model's own ones where it names
   them, stand-ins with random weights elsewhere.
2. It does so again in a new context, after other cells, under other random states, and through a context that has
   nothing but the members of `ScoringContext`: the same scores must come out.
3. Its scores of some nodes are compared with exact patching: information on their sign and size, not a bound.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import TYPE_CHECKING, Any

from basisbench.checks.basis_claims import complaints
from basisbench.checks.finding import Check, Finding, Property, at_most, holds, information, nothing, run_checks, told
from basisbench.checks.method_stage import KINDS, Interrupted, MethodStage, OnlyTheProtocol, open_method_stage
from basisbench.checks.reachable import reachable_bytes
from basisbench.checks.snapshots import take_snapshot
from basisbench.checks.stage import logits_of, row_difference

if TYPE_CHECKING:
    from basisbench.models.model import Model
    from basisbench.protocols import Method
    from basisbench.types import Scores, Side

_SAME = 1e-5
"""Largest relative difference of scores that are the same."""

_SAMPLE = 120
"""Nodes that are patched one by one."""


def check_method(method: Method, model: Model) -> Iterator[Property]:
    """Yield every property of a method.

    Raises:
        TaskError: no registered task gives prompts for the model's tokenizer.
    """
    yield from run_checks(f"method {method.name}", CHECKS, open_method_stage(method, model))


def _metadata(stage: MethodStage) -> Finding:
    return nothing(complaints(stage.method.name, stage.method.summary), "mistakes")


def _shapes(stage: MethodStage, kind: str) -> Finding:
    """Hold that every node has one finite score."""
    basis, context, found = stage.bases[kind], stage.context(), list[str]()
    scores = stage.method.score(context, basis)
    if len(scores.units) != len(basis.sites):
        return holds(False, f"{len(scores.units)} tensors for {len(basis.sites)} sites", "one per site")
    if (scores.errors is None) != basis.exact or (scores.errors and len(scores.errors) != len(basis.sites)):
        found.append("errors are there for an exact basis, or missing for one with errors")
    for index, site in enumerate(basis.sites):
        units, _ = context.coordinates(basis, site, "clean")
        here = [(scores.units[index], tuple(units.shape[1:]))]
        if scores.errors is not None:
            here.append((scores.errors[index], tuple(units.shape[1:2])))
        for values, shape in here:
            if tuple(values.shape) != shape:
                found.append(f"shape {tuple(values.shape)} instead of {shape} at {site.write}")
            elif not values.is_floating_point() or not values.isfinite().all():
                found.append(f"values at {site.write} are not finite numbers")
            elif values.requires_grad:
                found.append(f"scores at {site.write} require a gradient")
    return nothing(found, f"mistakes on {basis.name}")


def difference(found: Scores, expected: Scores) -> float:
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
    """Hold that scores are the same in a new context, after other cells, under other random states."""
    import random

    import torch

    worst = 0.0
    with torch.random.fork_rng(devices=[]):
        state = random.getstate()
        for turn, (kind, basis) in enumerate(stage.small.items()):
            torch.manual_seed(turn + 1)
            random.seed(turn + 1)
            stage.scores[kind]
            stage.method.score(stage.context(others=True), stage.small[KINDS[turn - 1]])
            worst = max(worst, difference(stage.method.score(stage.context(), basis), stage.scores[kind]))
            shared = stage.context()
            stage.method.score(shared, stage.small[KINDS[turn - 2]])
            worst = max(worst, difference(stage.method.score(shared, basis), stage.scores[kind]))
        random.setstate(state)
    return at_most(worst, _SAME, "largest relative difference")


def _context_alone(stage: MethodStage) -> Finding:
    worst = 0.0
    for kind in ("neurons", "dictionary"):
        context: Any = OnlyTheProtocol(stage.context())
        worst = max(worst, difference(stage.method.score(context, stage.small[kind]), stage.scores[kind]))
    return at_most(worst, _SAME, "largest relative difference")


def _leaves_context(stage: MethodStage) -> Finding:
    """Hold that what the context gives is unchanged for the next method, and so is the basis."""
    used, fresh, changed = stage.context(), stage.context(), list[str]()
    sides: tuple[Side, ...] = ("clean", "counterfactual")
    for basis in stage.small.values():
        stage.method.score(used, basis)
        for site, side in product(basis.sites, sides):
            for hook in {site.read, site.write}:
                if row_difference(used.activation(hook, side), fresh.activation(hook, side)) > _SAME:
                    changed.append(f"the {side} activation at {hook}")
            one, other = (each.coordinates(basis, site, side) for each in (used, fresh))
            for values, reference in zip(one, other, strict=True):
                if values is not None and reference is not None and row_difference(values, reference) > 10 * _SAME:
                    changed.append(f"the {side} coordinates or errors of {basis.name} at {site.read}")
    neurons = {site.write: site for site in stage.small["neurons"].sites}
    for rule, hook in list(used._fields):
        if hook in neurons:
            expected = fresh.gradient_field(rule, neurons[hook])
            if row_difference(used._fields[rule, hook], expected) > 10 * _SAME:
                changed.append(f"the gradient field of {rule} at {hook}")
    return nothing(changed, "tensors changed")


def _state(stage: MethodStage) -> Finding:
    stage.scores  # noqa: B018
    before = reachable_bytes(stage.method, stage.model)
    stage.method.score(stage.context(others=True), stage.small["dictionary"])
    stage.method.score(stage.context(), stage.small["neurons"])
    return at_most(reachable_bytes(stage.method, stage.model) - before, 64, "bytes held more than before:")


def _sign(stage: MethodStage) -> Finding:
    """Correlate scores with the exact effect of patching single nodes, half of them the best, half drawn."""
    import torch

    basis, scores, context = stage.small["dictionary"], stage.scores["dictionary"], stage.context()
    generator = torch.Generator().manual_seed(0)
    expected, effects = [], []
    baseline = context.clean_metric()
    for index, site in enumerate(basis.sites):
        clean, _ = context.coordinates(basis, site, "clean")
        other, _ = context.coordinates(basis, site, "counterfactual")
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


def _seed(stage: MethodStage) -> Finding:
    kind = "dictionary"
    changed = difference(stage.method.score(stage.context(seed=1), stage.small[kind]), stage.scores[kind]) > _SAME
    return information("they depend on the seed" if changed else "they do not depend on the seed")


def _after_failures(stage: MethodStage, kind: str, what: str) -> Finding:
    """Compare the model after scoring, and after scoring that was interrupted."""
    for basis in stage.small.values():
        stage.method.score(stage.context(), basis)
        for calls in (1, 3, 6):
            context: Any = OnlyTheProtocol(stage.context(), calls)
            try:
                stage.method.score(context, basis)
            except Interrupted:
                continue
            except Exception as error:
                if not isinstance(error.__cause__ or error.__context__, Interrupted):
                    return holds(False, f"an interruption became {told(error)}", "none")
    return nothing(stage.before.changes(take_snapshot(stage.model), kind), what)


def _at_the_end(stage: MethodStage, kind: str, what: str) -> Finding:
    return nothing(stage.before.changes(take_snapshot(stage.model), kind), what)


def _forward(stage: MethodStage) -> Finding:
    now = logits_of(stage.model, stage.model.tokens(stage.prompts.evaluation.clean))
    worst = max(
        float((after - before).double().abs().max() / before.double().abs().max())
        for before, after in zip(stage.logits_before, now, strict=True)
    )
    return at_most(worst, 1e-6, "logits differ from those before by")


CHECKS: tuple[Check[MethodStage], ...] = (
    Check("metadata", "name and a summary of one line are there", _metadata),
    Check(
        "scores of neurons", "every node of a basis without errors has a score", lambda stage: _shapes(stage, KINDS[0])
    ),
    Check(
        "scores of a dictionary",
        "every node of a basis with errors has a score, errors too",
        lambda stage: _shapes(stage, KINDS[1]),
    ),
    Check(
        "scores of a cross-layer transcoder",
        "every node of a basis that writes at later layers has a score",
        lambda stage: _shapes(stage, KINDS[2]),
    ),
    Check("the same again", "scores do not depend on earlier cells, contexts or random states", _again),
    Check("context alone", "it asks for nothing but ScoringContext, so never for the evaluation split", _context_alone),
    Check("leaves the context alone", "activations, coordinates and gradients stay as they are", _leaves_context),
    Check("state", "it keeps nothing of what it has scored", _state),
    Check(
        "hooks",
        "no hook is left on the model, after an interruption neither",
        lambda stage: _after_failures(stage, "hooks", "hooks left"),
    ),
    Check("weights", "the model's weights stay", lambda stage: _at_the_end(stage, "weights", "weights changed")),
    Check("gradients", "no weight asks for a gradient", lambda stage: _at_the_end(stage, "gradients", "weights")),
    Check("forward", "all views of the model compute what they computed before", _forward),
    Check("code", "no function was replaced", lambda stage: _at_the_end(stage, "code", "functions replaced")),
    Check("settings", "settings and random states stay", lambda stage: _at_the_end(stage, "settings", "changed")),
    Check("seed", "whether scores depend on the cell's seed", _seed),
    Check("sign", "agreement with exact patching", _sign),
)
"""In the order of the report."""
