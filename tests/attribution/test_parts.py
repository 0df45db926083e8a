"""Pairs that do not all fit into memory: in parts, every number is what it is of all pairs at once."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any
from unittest import mock

import pytest
import torch

from basisbench.attribution.context import GroupContext
from basisbench.attribution.fit import measure_fit
from basisbench.attribution.parts import RunningMean, mean_scores
from basisbench.circuits.group import GroupPair
from basisbench.circuits.ranking import rank
from basisbench.models.batching import BUDGETS, Budget
from basisbench.protocols import Basis, Method, averages_pairs
from basisbench.registry import load_registry
from basisbench.types import Scores
from helpers import cross_layer_oracle as cross
from helpers import oracle
from helpers.passes import masks_of, measured

pytestmark = pytest.mark.usefixtures("double_precision")

METHODS = ("ixg", "relp", "ig", "ig_inputs", "magnitude", "patching", "random")
BASES = ("mlp_act", "mlp_act_rotated", "sae_resid", "transcoder", "clt")
DROPPED, KEPT = 1, 60_000
"""Bytes for pairs: parts of one pair, dropped one after the other; parts that are kept for the basis at hand."""


@contextmanager
def room(size: int | None) -> Iterator[None]:
    """Let so many bytes be for pairs; room for all of them when None."""
    budget = BUDGETS["pairs"] if size is None else Budget(size, size)
    with mock.patch.dict(BUDGETS, {"pairs": budget}):
        yield


@cache
def groups(size: int | None, basis: str, architecture: str = "llama") -> list[GroupPair]:
    """Return the oracle's two groups where so many bytes are for pairs."""
    model = cross.model(architecture) if basis == "clt" else oracle.model(architecture)
    found = oracle.two_groups()
    with room(size):
        contexts = [
            GroupContext(model, pairs, 0, beside=sum(each.token_count for each in split) - pairs.token_count)
            for split in (found.attribution, found.evaluation)
            for pairs in split
        ]
    half = len(contexts) // 2
    return [GroupPair(one, other) for one, other in zip(contexts[:half], contexts[half:], strict=True)]


def basis_of(name: str) -> Basis:
    return cross.basis("llama") if name == "clt" else oracle.basis("llama", name)


def score(group: GroupPair, method: Method, basis: Basis, held_in: bool = False, **setting: Any) -> Scores:
    context = group.evaluation if held_in else group.attribution
    for each in (group.attribution, context):
        each.start(**{"ablation": "mean", **setting}, means=group.attribution)
    return mean_scores(lambda part: method.score(part, basis), context.parts(basis))


def values(scores: Scores) -> list[torch.Tensor]:
    return [*scores.units, *(scores.errors or ())]


def check_near(found: list[torch.Tensor], expected: list[torch.Tensor], bound: float = 1e-9) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape
        assert one.dtype == other.dtype
        torch.testing.assert_close(
            one, other, rtol=bound, atol=bound * float(other.abs().amax()) if len(other.flatten()) else 0
        )


SETTINGS: tuple[dict[str, Any], ...] = (
    {"ablation": "mean"},
    {"ablation": "counterfactual", "error_policy": "node"},
    {"ablation": "zero", "error_policy": "rotated"},
    {"ablation": "mean", "score_reference": "counterfactual"},
    {"ablation": "mean", "held_in": True, "error_policy": "keep"},
)
CASES = [
    pytest.param(
        *(method, BASES[(index + 2 * turn) % 5], SETTINGS[(2 * index + turn) % 5], (DROPPED, KEPT)[turn]),
        marks=pytest.mark.slow if turn else (),
    )
    for index, method in enumerate(METHODS)
    for turn in (0, 1)
]
"""Every method on two bases, one of them in the quick tests; every basis and every setting for some of them."""


@pytest.mark.parametrize(("method", "basis", "setting", "size"), CASES)
def test_scores_are_those_of_all_pairs(method: str, basis: str, setting: dict[str, Any], size: int) -> None:
    way, built = load_registry().get("method", method), basis_of(basis)
    assert averages_pairs(way)
    for whole, other in zip(groups(None, basis), groups(size, basis), strict=True):
        assert not whole.attribution.in_parts
        assert other.attribution.in_parts
        expected = score(whole, way, built, **setting)
        with room(size):
            found = score(other, way, built, **setting)
        check_near(values(found), values(expected))
        if method == "random":
            assert all(torch.equal(one, two) for one, two in zip(values(found), values(expected), strict=True))
        ledgers = [
            each.evaluation.ledger if setting.get("held_in") else each.attribution.ledger for each in (other, whole)
        ]
        for prefix in ("field:", "activations:"):
            charged, usual = (ledger.total(prefix).forward_equivalents for ledger in ledgers)
            assert charged == pytest.approx(usual), f"what a cell is charged for {prefix}"


@pytest.mark.parametrize("size", [KEPT, DROPPED])
@pytest.mark.parametrize("basis", BASES)
def test_references_and_endpoints_are_those_of_all_pairs(basis: str, size: int) -> None:
    built = basis_of(basis)
    for whole, other in zip(groups(None, basis), groups(size, basis), strict=True):
        for ablation in ("mean", "zero"):
            for site in built.sites:
                with room(size):
                    found = other.attribution.reduced_coordinates(built, site, ablation)
                expected = whole.attribution.reduced_coordinates(built, site, ablation)
                check_near([x for x in found if x is not None], [x for x in expected if x is not None], 1e-12)
        for ablation in ("mean", "zero", "counterfactual"):
            with room(size):
                empty = other.empty(built, ablation)
            check_near([empty], [whole.empty(built, ablation)])


@pytest.mark.parametrize("size", [KEPT, DROPPED])
@pytest.mark.parametrize("basis", ["sae_resid", "transcoder", "clt"])
def test_the_fit_is_that_of_all_pairs(basis: str, size: int) -> None:
    fits = []
    for each in (None, size):
        with room(each):
            contexts = [group.attribution for group in groups(each, basis)]
            fits.append(measure_fit(basis_of(basis), contexts, allow_poor=True))
    expected, found = fits
    for name in ("fvu", "l0", "slope"):
        assert getattr(found, name) == pytest.approx(getattr(expected, name), rel=1e-9), name
    if expected.loss_recovered is None:
        assert found.loss_recovered is None
    else:
        assert found.loss_recovered == pytest.approx(expected.loss_recovered, rel=1e-9)


@pytest.mark.parametrize("basis", BASES)
@pytest.mark.parametrize(
    ("ablation", "policy"),
    [
        ("mean", "coordinates"),
        pytest.param("counterfactual", "coordinates", marks=pytest.mark.slow),
        ("counterfactual", "node"),
    ],
)
def test_curves_are_those_of_all_pairs(basis: str, ablation: Any, policy: Any) -> None:
    built = basis_of(basis)
    for whole, other in zip(groups(None, basis), groups(DROPPED, basis), strict=True):
        scores = score(whole, load_registry().get("method", "magnitude"), built, ablation=ablation, error_policy=policy)
        ranking = rank(scores, policy=policy)
        points = [(size, flip) for size in (3, 40, ranking.nodes - 5) for flip in (False, True)]
        expected = measured(whole, built, ablation, ranking, points)
        with room(DROPPED):
            found = [measured(other, built, ablation, ranking, points, fast=fast) for fast in (True, False)]
            found.append(other.full)
        check_near(found, [expected, expected, whole.full])


def test_divergences_are_those_of_all_pairs() -> None:
    from basisbench.circuits.evaluate import evaluate

    built = basis_of("sae_resid")
    for whole, other in zip(groups(None, "sae_resid"), groups(DROPPED, "sae_resid"), strict=True):
        ranking = rank(score(whole, load_registry().get("method", "magnitude"), built), policy="coordinates")
        masks = masks_of(ranking, [(9, False), (9, True)])
        expected = evaluate(whole, built, "mean", masks, 2, divergence=True).divergence
        with room(DROPPED):
            found = evaluate(other, built, "mean", masks, 2, divergence=True).divergence
        assert found is not None
        assert expected is not None
        check_near([found], [expected], 1e-7)


def test_equal_values_have_that_value_as_their_mean() -> None:
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        rows = torch.randn(1, 5, 7, dtype=torch.float64).to(dtype).expand(11, -1, -1)
        mean = RunningMean()
        for part in rows.split(3):
            mean.add(part)
        assert torch.equal(mean.mean(), rows[:1])


def alive_bytes(parts: list[weakref.ref[GroupContext]]) -> int:
    """Return the bytes that parts hold which are still there."""
    found = [part for part in (each() for each in parts) if part is not None]
    tensors = [t for part in found for t in (*part._activations.values(), *part._fields.values())]
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


def most_bytes(times: int, work: Callable[[GroupPair], object]) -> int:
    """Return the most bytes of activations and fields that are there at once, with some times as many pairs."""
    made: list[weakref.ref[GroupContext]] = []
    peaks = [0]
    make, charge = GroupContext.part, GroupContext._charged

    def watched(context: GroupContext, *arguments: Any) -> GroupContext:
        part = make(context, *arguments)
        made.append(weakref.ref(part))
        return part

    def charged(context: GroupContext, *arguments: Any) -> Any:
        result = charge(context, *arguments)
        peaks.append(alive_bytes(made) + sum(value.nbytes for value in result.values()))
        return result

    first, second = oracle.two_groups().attribution[0], oracle.two_groups().evaluation[0]
    with (
        mock.patch.object(GroupContext, "part", watched),
        mock.patch.object(GroupContext, "_charged", charged),
        mock.patch.dict(BUDGETS, {"pairs": Budget(5_000, 5_000)}),
    ):
        model = oracle.model("llama")
        group = GroupPair(*(GroupContext(model, many(pairs, times), 0) for pairs in (first, second)))
        work(group)
        left = sum(t.nbytes for each in (group.attribution, group.evaluation) for t in each._activations.values())
    assert made, "it was done in parts"
    assert not left, "nothing is kept of all pairs"
    return max(peaks)


def many(pairs: Any, times: int) -> Any:
    """Return the pairs several times over."""
    from dataclasses import replace

    import numpy as np

    names = ("clean", "counterfactual", "answers", "foils")
    arrays = {name: np.concatenate([getattr(pairs, name)] * times) for name in names}
    texts = {name: getattr(pairs, name) * times for name in ("clean_text", "counterfactual_text")}
    return replace(pairs, **arrays, **texts, clusters={key: each * times for key, each in pairs.clusters.items()})


def curve(group: GroupPair, ablation: Any) -> None:
    built = basis_of("mlp_act")
    length = group.attribution.pairs.length
    drawn = oracle.random_scores(oracle.naive_basis("llama", "mlp_act"), length, 0)
    measured(group, built, ablation, rank(drawn, policy="coordinates"), [(4, False), (4, True)])


WORK: dict[str, Callable[[GroupPair], object]] = {
    "scores": lambda group: score(group, oracle.gradient_method("relp"), basis_of("mlp_act")),
    "ig": lambda group: score(group, oracle.gradient_method("ig"), basis_of("mlp_out")),
    "fit": lambda group: measure_fit(basis_of("sae_mlp_out"), [group.attribution], allow_poor=True),
    "F(0)": lambda group: group.empty(basis_of("mlp_act"), "counterfactual"),
    "curve": lambda group: curve(group, "counterfactual"),
}


@pytest.mark.slow
@pytest.mark.parametrize("work", WORK)
def test_what_is_kept_does_not_grow_with_pairs(work: str) -> None:
    few, twice, more = (most_bytes(times, WORK[work]) for times in (2, 4, 8))
    assert few > 0
    assert max(twice, more) <= few * 1.05  # parts are cut evenly: they differ by a pair


def test_a_method_that_does_not_say_that_it_averages_gets_all_pairs() -> None:
    context = groups(DROPPED, "mlp_act")[0].attribution
    whole = groups(None, "mlp_act")[0].attribution
    site = basis_of("mlp_act").sites[0]
    for each in (context, whole):
        each.start("mean")
    check_near([context.gradient_field("relp", site)], [whole.gradient_field("relp", site)])
    check_near([context.activation(site.read, "clean")], [whole.activation(site.read, "clean")], 1e-12)
    context.forget_other_bases("another")
    assert not context._activations
    assert not context._fields


@pytest.mark.parametrize("size", [KEPT, DROPPED])
def test_a_change_in_place_is_noticed_in_a_part_too(size: int) -> None:
    built = basis_of("mlp_act")
    with room(size):
        context = GroupContext(oracle.model("llama"), oracle.two_groups().attribution[0], 0)
        context.start("mean")
        for part in context.parts(built):
            part.activation(built.sites[0].read, "clean").add_(1)
    context.forget_other_bases("another")
    assert "the clean activation at" in context.changed()[0]
