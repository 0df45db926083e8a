"""`basisbench check` on tasks: the built-in ones hold every property, and every property fails for a cheat."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain, count

import pytest

from basisbench.checks import task as checks
from basisbench.checks.check import check, iterate
from basisbench.models.load import load_model
from basisbench.models.model import Model
from basisbench.protocols import Task
from basisbench.registry import load_registry
from basisbench.types import ContrastPair, ModelSpec, Segment, Split

REGISTRY = load_registry()
HONEST = REGISTRY.get("task", "sva_rc")


@pytest.fixture(scope="module")
def pocket() -> Model:
    return load_model(REGISTRY.get("model", "pocket-llama"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ioi", "sva_within_rc", "user_gender"])
def test_a_built_in_task_of_each_kind_holds_every_property_on_the_pocket_model(name: str, pocket: Model) -> None:
    """What every task must hold is held of all of them in tests/tasks and tests/pairs."""
    found = check(REGISTRY.get("task", name), pocket)
    assert [str(each) for each in found if not each.holds] == []
    assert len(found) == len(checks.CHECKS)
    assert next(each for each in found if each.name == "another process").outcome == "ok"


@pytest.mark.slow
def test_a_task_is_checked_with_another_tokenizer(tiny_llama: ModelSpec) -> None:
    found = check(HONEST, load_model(tiny_llama))
    assert [str(each) for each in found if not each.holds] == []


@dataclass(frozen=True)
class Cheat:
    """Agreement across a relative clause, with something changed."""

    name: str = "cheat"
    version: str = "1"
    summary: str = "a cheat"

    def candidates(self, split: Split, seed: int) -> Iterator[ContrastPair]:
        return HONEST.candidates(split, seed)


class NeverEnds(Cheat):
    def candidates(self, split: Split, seed: int) -> Iterator[ContrastPair]:
        return chain.from_iterable(HONEST.candidates(split, seed) for _ in count())


class RepeatsItself(Cheat):
    def candidates(self, split: Split, seed: int) -> Iterator[ContrastPair]:
        return chain(HONEST.candidates(split, seed), HONEST.candidates(split, seed))


class SharesWords(Cheat):
    """The evaluation split is the attribution split under another seed."""

    def candidates(self, split: Split, seed: int) -> Iterator[ContrastPair]:
        return HONEST.candidates("attribution", seed + (100 if split == "evaluation" else 0))


class HidesSharedWords(SharesWords):
    """The same words again, and pairs that name none of them."""

    def candidates(self, split: Split, seed: int) -> Iterator[ContrastPair]:
        for pair in super().candidates(split, seed):
            yield replace(pair, words=(f"{split}word",))


class AnswersAreFoils(Cheat):
    def candidates(self, split: Split, seed: int) -> Iterator[ContrastPair]:
        for index, pair in enumerate(HONEST.candidates(split, seed)):
            yield pair if index else replace(pair, foils=pair.answers)


class DrawsAnew(Cheat):
    def candidates(self, split: Split, seed: int) -> Iterator[ContrastPair]:
        pairs = list(HONEST.candidates(split, seed))
        random.shuffle(pairs)
        return iter(pairs)


class FollowsHashes(Cheat):
    """In the order of a set of texts, which is another in each process."""

    def candidates(self, split: Split, seed: int) -> Iterator[ContrastPair]:
        pairs = list(HONEST.candidates(split, seed))
        pairs.sort(key=lambda pair: hash(pair.clean_text))
        return iter(pairs)


class IgnoresTheSeed(Cheat):
    def candidates(self, split: Split, _seed: int) -> Iterator[ContrastPair]:
        return HONEST.candidates(split, 0)


class HasClustersOfOne(Cheat):
    """Every pair is a level of its own, as if none had a word in common: intervals would be too narrow."""

    def candidates(self, split: Split, seed: int) -> Iterator[ContrastPair]:
        for index, pair in enumerate(HONEST.candidates(split, seed)):
            yield replace(pair, clusters={"pair": str(index)})


class ChangesItsFactors(Cheat):
    def candidates(self, split: Split, seed: int) -> Iterator[ContrastPair]:
        for index, pair in enumerate(HONEST.candidates(split, seed)):
            yield replace(pair, clusters=pair.clusters if index else {"name": "one"})


class HasFewPairs(Cheat):
    def candidates(self, split: Split, seed: int) -> Iterator[ContrastPair]:
        pairs = HONEST.candidates(split, seed)
        return (pair for _, pair in zip(range(20), pairs, strict=False))


CHEATS: tuple[tuple[Cheat, str], ...] = (
    (Cheat(version=""), "metadata"),
    (NeverEnds(), "candidates"),
    (RepeatsItself(), "candidates"),
    (SharesWords(), "disjoint words"),
    (HidesSharedWords(), "words named"),
    (AnswersAreFoils(), "contrast"),
    (HasClustersOfOne(), "clusters"),
    (ChangesItsFactors(), "clusters"),
    (DrawsAnew(), "the same again"),
    (FollowsHashes(), "another process"),
    (IgnoresTheSeed(), "another seed"),
    (HasFewPairs(), "enough pairs"),
)


@pytest.mark.slow
def test_what_every_cheat_is_made_from_is_honest(pocket: Model) -> None:
    assert [str(each) for each in check(Cheat(), pocket) if not each.holds] == []


@pytest.mark.slow
@pytest.mark.parametrize(("task", "fails"), CHEATS, ids=[type(task).__name__ for task, _ in CHEATS])
def test_a_cheat_fails_on_the_property_that_names_it(
    pocket: Model, task: Task, fails: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("basisbench.checks.task._MOST", 3000)  # what never ends is told sooner
    found = next(each for each in iterate(task, pocket) if each.name == fails)
    assert found.outcome == "FAILED", found
    assert found.bound != "no exception", found


def test_every_property_of_a_task_can_fail() -> None:
    assert {each.name for each in checks.CHECKS} - {"accuracy", "levels"} == {fails for _, fails in CHEATS}


@pytest.mark.slow
def test_accuracy_is_told(pocket: Model) -> None:
    found = next(each for each in iterate(HONEST, pocket) if each.name == "accuracy")
    assert (found.outcome, found.bound) == ("info", "")
    assert found.measured.startswith("100% of 9 pairs")


@pytest.mark.slow
def test_levels_are_told(pocket: Model) -> None:
    class HasFewNouns(Cheat):
        def candidates(self, split: Split, seed: int) -> Iterator[ContrastPair]:
            nouns = dict.fromkeys(pair.clusters["noun"] for pair in HONEST.candidates(split, 0))
            few = list(nouns)[:3]
            return (pair for pair in HONEST.candidates(split, seed) if pair.clusters["noun"] in few)

    honest, few = (
        next(each for each in iterate(task, pocket) if each.name == "levels") for task in (HONEST, HasFewNouns())
    )
    assert (honest.outcome, few.outcome) == ("info", "info")
    assert re.fullmatch(r"noun [2-4]\d levels in 60 evaluation pairs", honest.measured)
    assert re.fullmatch(r"noun 3 levels in \d+ evaluation pairs; below 8 an interval is unreliable", few.measured)


def test_segments_without_contrast_are_found(pocket: Model) -> None:
    class NoContrast(Cheat):
        def candidates(self, split: Split, seed: int) -> Iterator[ContrastPair]:
            for pair in HONEST.candidates(split, seed):
                yield replace(pair, counterfactual=(*pair.clean[:-1], Segment("other", pair.clean[-1].text)))

    found = next(each for each in iterate(NoContrast(), pocket) if each.name == "contrast")
    assert "roles differ or repeat" in found.measured
