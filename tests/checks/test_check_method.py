"""`basisbench check` on methods: the built-in ones hold every property, and every property fails for a cheat."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch

from basisbench.attribution.projection import projected_scores
from basisbench.checks import left_behind
from basisbench.checks import method as checks
from basisbench.checks.check import check, iterate
from basisbench.checks.finding import Check, Finding, run_checks
from basisbench.errors import BasisBenchError
from basisbench.models.load import load_model
from basisbench.models.model import Model
from basisbench.protocols import Basis, ScoringContext
from basisbench.registry import load_registry
from basisbench.types import ModelSpec, Scores
from helpers.one_check import property_of

REGISTRY = load_registry()


@pytest.fixture
def tiny(tiny_llama: ModelSpec) -> Model:
    torch.manual_seed(99)  # a cheat that seeds torch must not find the state that it would make
    return load_model(tiny_llama, dtype="float32")


@pytest.mark.slow
@pytest.mark.parametrize("name", [entry.name for entry in REGISTRY.of("method")])
def test_every_built_in_method_holds_every_property(name: str, tiny: Model) -> None:
    found = check(REGISTRY.get("method", name), tiny)
    assert [str(each) for each in found if not each.holds] == []
    assert len(found) == len(checks.CHECKS) + len(left_behind.CHECKS) + len(checks.INFORMATION)


@dataclass
class Honest:
    """Input x gradient; what cheats change."""

    name: str = "honest"
    summary: str = "a cheat"

    def score(self, context: ScoringContext, basis: Basis) -> Scores:
        return projected_scores(context, basis, "ixg")


class DrawsFromGlobalState(Honest):
    def score(self, context: ScoringContext, basis: Basis) -> Scores:
        scores = super().score(context, basis)
        return Scores(tuple(units + random.random() for units in scores.units), scores.errors)


class LooksAtThePairs(Honest):
    """Asks the context for what ScoringContext does not have."""

    def score(self, context: ScoringContext, basis: Basis) -> Scores:
        assert context.pairs.task  # type: ignore[attr-defined]
        return super().score(context, basis)


class WritesIntoTheContext(Honest):
    def score(self, context: ScoringContext, basis: Basis) -> Scores:
        scores = super().score(context, basis)
        context.activation(basis.sites[0].read, "clean").mul_(1.5)
        return scores


class LeavesOutErrors(Honest):
    def score(self, context: ScoringContext, basis: Basis) -> Scores:
        return Scores(super().score(context, basis).units, None)


class GivesErrorsToAll(Honest):
    def score(self, context: ScoringContext, basis: Basis) -> Scores:
        scores = super().score(context, basis)
        return Scores(scores.units, scores.errors or scores.units)


class KnowsCoordinatesAlone(Honest):
    """Scores each coordinate of an error where the whole error is one node."""

    def score(self, context: ScoringContext, basis: Basis) -> Scores:
        scores = super().score(context, basis)
        if scores.errors is None or context.error_policy != "node":
            return scores
        return Scores(scores.units, tuple(error.expand(-1, 16) for error in scores.errors))


class ScoresTheFirstSiteTwice(Honest):
    def score(self, context: ScoringContext, basis: Basis) -> Scores:
        scores = super().score(context, basis)
        if hasattr(basis, "spread"):
            return Scores(scores.units[:1], (scores.errors or ())[:1])
        return scores


class SwallowsErrors(Honest):
    def score(self, context: ScoringContext, basis: Basis) -> Scores:
        try:
            return super().score(context, basis)
        except RuntimeError:
            return Scores(tuple(torch.zeros(3, 4) for _ in basis.sites), None)


class LeavesAHookWhenInterrupted(Honest):
    def score(self, context: ScoringContext, basis: Basis) -> Scores:
        handle = context.model.body.register_forward_hook(lambda *_: None)
        scores = super().score(context, basis)
        handle.remove()
        return scores


class ChangesAWeight(Honest):
    def score(self, context: ScoringContext, basis: Basis) -> Scores:
        context.model.body.get_submodule("model.norm").weight.data.mul_(1.001)
        return super().score(context, basis)


class SeedsTorch(Honest):
    def score(self, context: ScoringContext, basis: Basis) -> Scores:
        torch.manual_seed(0)
        return super().score(context, basis)


CHEATS: tuple[tuple[Honest, str], ...] = (
    (Honest(summary="two\nlines"), "metadata"),
    (GivesErrorsToAll(), "scores of neurons"),
    (LeavesOutErrors(), "scores of a dictionary"),
    (KnowsCoordinatesAlone(), "scores of a dictionary"),
    (ScoresTheFirstSiteTwice(), "scores of a cross-layer transcoder"),
    (DrawsFromGlobalState(), "the same again"),
    (LooksAtThePairs(), "context alone"),
    (WritesIntoTheContext(), "leaves the context alone"),
    (SwallowsErrors(), "interruption"),
    (LeavesAHookWhenInterrupted(), "hooks"),
    (ChangesAWeight(), "forward"),
    (SeedsTorch(), "settings"),
)


@pytest.mark.slow
def test_what_every_cheat_is_made_from_is_honest(tiny: Model) -> None:
    assert [str(each) for each in check(Honest(), tiny) if not each.holds] == []


@pytest.mark.slow
@pytest.mark.parametrize(("method", "fails"), CHEATS, ids=[type(method).__name__ for method, _ in CHEATS])
def test_a_cheat_fails_on_the_property_that_names_it(tiny: Model, method: Honest, fails: str) -> None:
    found = property_of(method, tiny, fails, checks)
    assert found.outcome == "FAILED", found
    assert (found.bound == "no exception") == isinstance(method, LooksAtThePairs), found


def test_every_property_of_a_method_can_fail() -> None:
    assert {each.name for each in (*checks.CHECKS, *left_behind.CHECKS)} == {fails for _, fails in CHEATS}


class Leaves(Honest):
    def score(self, context: ScoringContext, basis: Basis) -> Scores:
        raise SystemExit(0 if basis is context else 3)


def test_an_exit_is_a_failed_property_and_no_end(tiny: Model) -> None:
    properties = iterate(Leaves(), tiny)
    found = next(each for each in properties if each.name == "scores of neurons")
    assert (found.outcome, found.measured) == ("FAILED", "SystemExit: 3")
    assert next(properties).name == "scores of a dictionary"


@pytest.mark.slow
@pytest.mark.parametrize(("turn", "expected"), [(1, "correlation 1.00"), (-1, "correlation -1.00")])
def test_the_sign_is_measured_against_exact_patching(tiny: Model, turn: int, expected: str) -> None:
    patching = REGISTRY.get("method", "patching")

    class Turned(Honest):
        def score(self, context: ScoringContext, basis: Basis) -> Scores:
            scores = patching.score(context, basis)
            return Scores(tuple(turn * units for units in scores.units), scores.errors)

    found = next(each for each in iterate(Turned(), tiny) if each.name == "sign")
    assert expected in found.measured
    assert found.outcome == "info"


@pytest.mark.slow
def test_the_seed_is_told(tiny: Model) -> None:
    told: Callable[[str], str] = lambda name: next(  # noqa: E731
        each.measured for each in iterate(REGISTRY.get("method", name), tiny) if each.name == "seed"
    )
    assert told("random") == "they depend on the seed"
    assert told("ixg") == "they do not depend on the seed"


def test_the_reason_behind_a_long_path_is_whole() -> None:
    def fail(_: None) -> Finding:
        raise BasisBenchError(f"/{'a long folder/' * 30}weights.pt:\n  hidden_size is -1, expected at least 1")

    (found,) = run_checks("basis mine", [Check("loads", "it loads", fail)], None)
    assert found.outcome == "FAILED"
    assert found.measured.endswith("weights.pt: hidden_size is -1, expected at least 1")
