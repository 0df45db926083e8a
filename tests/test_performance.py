"""Timings of the parts that decide how long a run takes: `tox run -e perf`; the test suite runs each once.

Read them as ratios inside one run, against plain forward passes of the same prompts, one per point: absolute times
are the machine's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from transformers import AutoModelForCausalLM

from basisbench.curve import evaluate_circuits
from basisbench.execute import Session, open_session
from basisbench.gradients import gradient_field
from basisbench.model import load_model
from basisbench.ranking import rank
from basisbench.reference import reference_values
from basisbench.registry import load_registry
from basisbench.shortcut import take_shortcut

BASES = ("mlp_act", "mlp_out", "mlp_act_rotated", "sae_mlp_out", "transcoder")
RULES = ("ixg", "relp", "ig")
CIRCUITS = 8


@pytest.fixture(scope="module")
def session() -> Session:
    registry = load_registry()
    model = load_model(registry.get("model", "pocket-llama"))
    return open_session(model, registry.get("task", "sva_rc"), attribution_pairs=100, evaluation_pairs=100, seed=0)


def _measure(benchmark: BenchmarkFixture, work: Callable[[], Any]) -> Any:
    return benchmark.pedantic(work, rounds=10, iterations=1, warmup_rounds=2)


@pytest.mark.benchmark(group="eight curve points over all groups")
def test_plain_forward(benchmark: BenchmarkFixture, session: Session) -> None:
    plain = AutoModelForCausalLM.from_pretrained(session.model.spec.path).eval()

    def work() -> list[torch.Tensor]:
        with torch.inference_mode():
            return [
                plain(group.evaluation.batch.clean, use_cache=False).logits
                for group in session.groups
                for _ in range(CIRCUITS)
            ]

    logits = _measure(benchmark, work)
    assert len(logits) == len(session.groups) * CIRCUITS


@pytest.mark.benchmark(group="eight curve points over all groups")
@pytest.mark.parametrize("name", BASES)
def test_interior_curve_point(benchmark: BenchmarkFixture, session: Session, name: str) -> None:
    basis = load_registry().get("basis", name).build(session.model)
    method = load_registry().get("method", "ixg")
    prepared = []
    for group in session.groups:
        batch = group.evaluation.batch
        prompts = [group.attribution.batch.counterfactual, batch.clean, batch.counterfactual]
        prepared.append(
            (
                batch,
                reference_values(basis, "mean", group.attribution, group.evaluation),
                rank(method.score(group.attribution, basis), policy="node"),
                take_shortcut(session.model, prompts, prefix=True),
            )
        )

    def work() -> list[torch.Tensor]:
        return [
            evaluate_circuits(
                session.model,
                basis,
                batch,
                reference,
                lambda start, stop, ranking=ranking: ranking.keep([100] * (stop - start), [False] * (stop - start)),
                CIRCUITS,
                shortcut=shortcut,
            ).metric
            for batch, reference, ranking, shortcut in prepared
        ]

    values = _measure(benchmark, work)
    assert sum(value.numel() for value in values) == 100 * CIRCUITS


@pytest.mark.benchmark(group="gradient fields of all families, one group")
@pytest.mark.parametrize("rule", RULES)
def test_gradient_field(benchmark: BenchmarkFixture, session: Session, rule: str) -> None:
    model, batch = session.model, session.groups[0].attribution.batch
    hooks = [
        model.hook(kind, layer)
        for layer in range(model.layers)
        for kind in ("mlp_act", "mlp_out", "attn_out", "resid_post")
    ]
    field = _measure(benchmark, lambda: gradient_field(rule, model, batch, hooks))
    assert set(field) == set(hooks)
