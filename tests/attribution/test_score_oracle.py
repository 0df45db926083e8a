"""Every method's scores under every condition of a cell, against twins that move one node of one pair at a time."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from basisbench.attribution.context import GroupContext
from basisbench.protocols import Method
from basisbench.types import Scores
from basisbench_baselines.methods.magnitude import Magnitude
from basisbench_baselines.methods.patching import ActivationPatching
from basisbench_baselines.methods.random_scores import RandomScores
from helpers import oracle
from helpers.oracle_scores import RULES

pytestmark = pytest.mark.usefixtures("double_precision")

Twin = Callable[[oracle.Naive, oracle.NaiveBasis, GroupContext, oracle.Question, GroupContext], oracle.NaiveScores]


def agree(found: Scores, expected: oracle.NaiveScores, twin: oracle.NaiveBasis) -> float:
    """Hold that scores are those of a twin; return the largest."""
    assert (found.errors is not None) == twin.has_error
    pairs = list(zip(found.units, expected.units, strict=True))
    if found.errors is not None:
        pairs += zip(found.errors, expected.errors, strict=True)
    for one, other in pairs:
        torch.testing.assert_close(one, other, rtol=0, atol=1e-9)
    return max(float(one.abs().max()) for one, _ in pairs)


def hold(
    architecture: str, name: str, method: Method, twin_of: Callable[..., oracle.NaiveScores], number: int, *,
    questions: tuple[oracle.Question, ...] = oracle.QUESTIONS, held_in: bool = False,
) -> None:  # fmt: skip
    """Hold that a method's scores are its twin's under every question.

    Args:
        architecture: of the tiny model.
        name: of the basis.
        method: the method.
        twin_of: gives the twin's scores.
        number: of the aligned group.
        questions: the conditions.
        held_in: whether the evaluation pairs are scored, with means over the attribution pairs as always.
    """
    slow, twin = oracle.naive(architecture), oracle.naive_basis(architecture, name)
    group, basis = oracle.contexts(architecture)[number], oracle.basis(architecture, name)
    context, means = (group.evaluation, group.attribution) if held_in else (group.attribution, None)
    for question in questions:
        with oracle.asking(context, question, means):
            found = method.score(context, basis)
        expected = twin_of(slow, twin, context.pairs, question, group.attribution.pairs)
        assert agree(found, expected, twin) > 1e-3


@oracle.on_architectures(
    ("rule", "name"),
    whole=[(rule, name) for rule in RULES for name in oracle.BASES],
    part=[(rule, name) for rule in ("ixg", "ig", "ig_inputs") for name in ("mlp_act", "sae_resid", "transcoder")],
)
def test_gradient_scores_are_gradient_times_what_each_node_moves_by(architecture: str, rule: str, name: str) -> None:
    def twin_of(*asked: object) -> oracle.NaiveScores:
        return oracle.naive_scores(rule, *asked)  # type: ignore[arg-type]

    hold(architecture, name, oracle.gradient_method(rule), twin_of, 1)


@oracle.on_architectures(
    ("name",), whole=[(name,) for name in oracle.BASES], part=[("mlp_act",), ("sae_resid",), ("transcoder",)]
)
def test_magnitude_is_the_mean_size_of_each_node_s_move(architecture: str, name: str) -> None:
    for number in (0, 1):
        hold(architecture, name, Magnitude(), oracle.naive_magnitude, number)


@oracle.on_architectures(
    ("name",), whole=[(name,) for name in oracle.BASES], part=[("attn_z",), ("sae_mlp_out",), ("transcoder",)]
)
def test_patching_is_a_run_with_one_node_moved(architecture: str, name: str) -> None:
    hold(architecture, name, ActivationPatching(), oracle.naive_patching, 1, questions=oracle.COVERING)
