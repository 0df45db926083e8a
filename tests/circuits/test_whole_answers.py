"""Answers of several tokens: metric, scores and curves against a twin that takes one prompt and one token at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from torch import Tensor

from basisbench.attribution.context import GroupContext
from basisbench.circuits.evaluate import evaluate
from basisbench.circuits.group import GroupPair
from basisbench.circuits.ranking import rank
from basisbench.models.batching import BUDGETS, Budget
from basisbench.types import Ablation, Pairs, Split
from basisbench_baselines.methods.patching import ActivationPatching
from helpers import oracle
from helpers.oracle import Naive, Where
from helpers.oracle_models import VOCABULARY
from helpers.passes import circuits_and_complements, masks_of, measure_group

pytestmark = pytest.mark.usefixtures("double_precision")

TOKENS = 3
PROMPT = 4


@dataclass(frozen=True, eq=False)
class NaiveWhole(Naive):
    """The slow model; the logits of a prompt are those of its last positions, and the metric goes token by token."""

    def logits(self, prompt: Any, edits: Mapping[Where, Callable[[Tensor], Tensor | None]] | None = None) -> Tensor:
        tokens = torch.as_tensor(np.asarray(prompt), dtype=torch.long)
        seen: list[Tensor] = []
        with self.hooked({**(edits or {}), ("lm_head", "out"): lambda output: seen.append(output)}):
            self.body(input_ids=tokens if tokens.ndim == 2 else tokens.unsqueeze(0), use_cache=False)
        return seen[0][:, -TOKENS:]

    def metric(self, pairs: Pairs, index: int, logits: Tensor) -> Tensor:
        """Return the log-probability of a row's tokens; answers and foils take turns, and foils count against."""
        value = torch.zeros(())
        for step, token in enumerate(pairs.answers[index]):
            value = value + logits[..., step, :].log_softmax(-1)[..., int(token)]
        return value if index % 2 == 0 else -value


@cache
def slow(architecture: str) -> NaiveWhole:
    return NaiveWhole(architecture, oracle.naive(architecture).body)


def whole_pairs(count: int, seed: int, split: Split, tokens: int = TOKENS) -> Pairs:
    """Random pairs that go on with a random answer, as alignment makes them."""
    pairs = oracle.random_pairs(count, PROMPT, seed, split=split)
    answers, foils = np.random.default_rng(seed + 100).integers(2, VOCABULARY, (2, count, tokens))
    foils[:, 0] = 2 + (answers[:, 0] - 1) % (VOCABULARY - 2)  # never the answer
    return replace(
        pairs,
        clean=np.concatenate([pairs.clean, answers[:, :-1]], 1),
        counterfactual=np.concatenate([pairs.counterfactual, answers[:, :-1]], 1),
        answers=answers,
        foils=foils,
        roles=(*pairs.roles, *["answer"] * (tokens - 1)),
        metric="logprob",
    )


def rows_of(pairs: Pairs) -> Pairs:
    """Each pair twice: followed by its answer, and by its foil."""
    clean, counterfactual, answers = [], [], []
    for index in range(len(pairs)):
        for behind in (pairs.answers[index], pairs.foils[index]):
            clean.append([*pairs.clean[index][:PROMPT], *behind[:-1]])
            counterfactual.append([*pairs.counterfactual[index][:PROMPT], *behind[:-1]])
            answers.append(behind)
    twice = tuple(text for text in pairs.clean_text for _ in range(2))
    return replace(
        pairs,
        clean=np.array(clean),
        counterfactual=np.array(counterfactual),
        answers=np.array(answers),
        clean_text=twice,
    )


@cache
def groups(architecture: str) -> tuple[GroupPair, Pairs, Pairs]:
    """The group as the harness holds it, and the rows of both of its splits."""
    model = oracle.model(architecture)
    attribution, evaluation = whole_pairs(2, 1, "attribution"), whole_pairs(2, 2, "evaluation")
    pair = GroupPair(GroupContext(model, attribution, 0), GroupContext(model, evaluation, 0))
    return pair, rows_of(attribution), rows_of(evaluation)


def per_pair(rows: Tensor) -> Tensor:
    """Add the log-probability of the answer to that of the foil, which counts against."""
    return rows[..., 0::2] + rows[..., 1::2]


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("architecture", "name", "ablation"),
    [
        ("llama", "mlp_act", "counterfactual"),
        ("gpt2", "sae_mlp_out", "mean"),
        pytest.param("llama", "transcoder", "mean", marks=SLOW),
        ("gemma3", "attn_z", "zero"),
    ],
)
def test_curves_equal_the_slow_evaluator(architecture: str, name: str, ablation: Ablation) -> None:
    group, attribution, evaluation = groups(architecture)
    twin, basis = oracle.naive_basis(architecture, name), oracle.basis(architecture, name)
    scores = oracle.random_scores(twin, PROMPT + TOKENS - 1, 0)
    mapping = oracle.score_of_nodes(scores, twin)
    order = oracle.ranked(mapping, list(mapping))
    sizes = [len(order) // 3]
    circuits = [set(order[: sizes[0]]), set(order[sizes[0] :]), set()]
    model = slow(architecture)
    expected = per_pair(oracle.naive_circuits(model, twin, attribution, evaluation, ablation, circuits))
    ranking = rank(scores, policy="coordinates")
    curve = measure_group(oracle.cell(name, ablation=ablation), basis, group, ranking, sizes)
    torch.testing.assert_close(circuits_and_complements(curve), expected[:2], rtol=0, atol=1e-10)
    plain = evaluate(group, basis, ablation, masks_of(ranking, [(sizes[0], False)]), 1, fast=False).metric
    torch.testing.assert_close(plain[0], expected[0], rtol=0, atol=1e-10)
    full = [
        model.metric(evaluation, row, model.logits(evaluation.clean[row])[0]) for row in range(len(evaluation.clean))
    ]
    torch.testing.assert_close(group.full, per_pair(torch.stack(full)), rtol=0, atol=1e-10)
    if architecture != "gemma3":  # whose norms behind a family make F(0) another number than the empty circuit
        torch.testing.assert_close(group.empty(basis, ablation), expected[2], rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("architecture", "name", "method"),
    [
        ("llama", "mlp_act", "ixg"),
        ("gpt2", "mlp_act", "ig_inputs"),
        pytest.param("llama", "sae_mlp_out", "relp", marks=SLOW),
        pytest.param("llama", "sae_mlp_out", "ig", marks=SLOW),
        pytest.param("llama", "mlp_act", "patching", marks=SLOW),
    ],
)
def test_scores_are_those_of_each_row_alone(architecture: str, name: str, method: str) -> None:
    group, rows, _ = groups(architecture)
    twin, question = oracle.naive_basis(architecture, name), oracle.Question()
    with oracle.asking(group.attribution, question) as context:
        way = ActivationPatching() if method == "patching" else oracle.gradient_method(method)
        found = way.score(context, oracle.basis(architecture, name))
    if method == "patching":
        expected = oracle.naive_patching(slow(architecture), twin, rows, question)
    else:
        expected = oracle.naive_scores(method, slow(architecture), twin, rows, question)
    # The twin takes a mean over rows, of which each pair has two.
    for one, other in zip(found.units, expected.units, strict=True):
        torch.testing.assert_close(one, 2 * other, rtol=0, atol=1e-9)
    for one, other in zip(found.errors or (), expected.errors, strict=False):
        torch.testing.assert_close(one, 2 * other, rtol=0, atol=1e-9)


def test_of_single_tokens_the_metric_is_the_difference_of_their_logits() -> None:
    model = oracle.model("llama")
    whole = whole_pairs(3, 5, "evaluation", tokens=1)
    contexts = [GroupContext(model, pairs, 0) for pairs in (whole, replace(whole, metric="logit"))]
    one, other = (GroupPair(context, context) for context in contexts)
    torch.testing.assert_close(one.full, other.full, rtol=0, atol=1e-10)
    clean = [context.clean_metric() for context in contexts]
    torch.testing.assert_close(contexts[0].batch.per_pair(clean[0]), clean[1], rtol=0, atol=1e-10)


def test_logits_are_made_for_a_few_rows_at_a_time() -> None:
    group, _, _ = groups("llama")
    whole = group.evaluation.clean_metric()
    with mock.patch.dict(BUDGETS, {"losses": Budget(1, 1)}):
        torch.testing.assert_close(group.evaluation.clean_metric(), whole, rtol=0, atol=1e-12)
