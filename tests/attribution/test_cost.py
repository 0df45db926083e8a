"""What a cell costs does not depend on which cells came before it: shared work is charged to each that uses it."""

from __future__ import annotations

import itertools
import random
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from basisbench.attribution.context import GroupContext
from basisbench.models.load import load_model
from basisbench.registry import load_registry
from basisbench.results.record import CellConfig
from basisbench.runs import session
from basisbench.types import Ablation, Site
from helpers import oracle
from helpers.oracle_models import random_pairs

PAIRS = 4
CELLS = ("mlp_out:random", "mlp_act:relp", "mlp_out:ixg", "clt:random", "transcoder:magnitude", "attn_z:random")


@cache
def model_of(name: str) -> Any:
    return load_model(load_registry().get("model", name))


def costs(cells: tuple[str, ...], ablation: Ablation) -> dict[str, float]:
    registry = load_registry()
    task = registry.get("task", "sva_simple")
    opened = session.open_session(
        model_of("pocket-llama"), task, attribution_pairs=PAIRS, evaluation_pairs=PAIRS, seed=0
    )
    found: dict[str, float] = {}
    for name in cells:
        basis, method = name.split(":")
        spec = registry.get("basis", basis)
        cell = CellConfig(
            model="pocket-llama", task=task.name, task_version=task.version, basis=basis, family=spec.family,
            method=method, ablation=ablation, attribution_pairs=PAIRS, evaluation_pairs=PAIRS,
        )  # fmt: skip
        found[name] = opened.run(cell, spec, registry.get("method", method)).cost.forward_equivalents
    return found


# One other order for each ablation: which cells come before and what references are made of meet in three ways.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("ablation", "order"), [("mean", CELLS[::-1]), ("counterfactual", CELLS[2:] + CELLS[:2]), ("zero", CELLS[::-1])]
)
def test_forward_equivalents_do_not_depend_on_the_order_of_cells(
    ablation: Ablation, order: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "load_splits", cache(session.load_splits))  # sessions differ, their pairs do not
    assert costs(order, ablation) == {name: costs((name,), ablation)[name] for name in CELLS}


@pytest.mark.slow
def test_a_hook_of_no_family_costs_one_backward_pass_whichever_layers_and_cells_came_first() -> None:
    model, pairs = model_of("pocket-llama"), random_pairs(PAIRS, 6, 0)
    family = [Site(layer, *[model.hook("mlp_out", layer)] * 2) for layer in range(model.layers)]
    outside = [Site(layer, *[f"blocks.{layer}.mlp.in.hook_out"] * 2) for layer in range(model.layers)]
    assert {site.write for site in outside} <= model.hook_points.keys()
    for rule in ("ixg", "relp", "ig"):
        charged: dict[str, set[float]] = {"family": set(), "outside": set()}
        spent: set[float] = set()
        orders = ((family, outside), (outside, family), (outside[::-1], family), (outside[2:], family, outside[:2]))
        for order in orders:
            context = GroupContext(model, pairs, 0)
            for site in (family[0], outside[0]):
                context.activation(site.write, "counterfactual")  # where paths end, charged as activations
            before = model.meter.forward_equivalents
            for sites in order:
                context.ledger.start()
                for site in sites:
                    context.gradient_field(rule, site)
                which = "family" if sites is family else "outside"
                charged[which].add(round(context.ledger.total("field:").forward_equivalents, 9))
            spent.add(round(model.meter.forward_equivalents - before, 9))
        assert all(len(costs) == 1 for costs in charged.values()), rule
        assert spent == {sum(cost for costs in charged.values() for cost in costs)}, rule
        if rule != "ig":
            assert charged == {"family": {3 * PAIRS}, "outside": {3 * PAIRS}}


@pytest.mark.slow
@pytest.mark.usefixtures("double_precision")
def test_each_end_of_a_path_has_a_field_of_its_own_and_is_charged_alike_in_any_order(architecture: str) -> None:
    group, site = oracle.contexts(architecture)[1], oracle.basis(architecture, "mlp_act").sites[-1]

    def ask(context: GroupContext, question: oracle.Question, others: bool) -> tuple[Tensor, float]:
        with oracle.asking(context, question, group.evaluation if others else None):
            field = context.gradient_field("ig", site)
            return field, context.ledger.total("field:").forward_equivalents

    def fresh() -> GroupContext:
        return GroupContext(group.attribution.model, group.attribution.pairs, 0)

    questions = [question for question in oracle.QUESTIONS if question.error_policy == "node"]
    cells = list(itertools.product(questions, (False, True)))
    alone = [ask(fresh(), *cell) for cell in cells]
    for seed in range(2):
        context = fresh()
        for number in random.Random(seed).sample(range(len(cells)), len(cells)):
            field, cost = ask(context, *cells[number])
            torch.testing.assert_close(field, alone[number][0], rtol=0, atol=1e-13)
            assert cost == alone[number][1]
    ends = {}
    for (question, others), (field, _) in zip(cells, alone, strict=True):
        end = question.end, others and question.end == "mean"
        torch.testing.assert_close(ends.setdefault(end, field), field, rtol=0, atol=1e-13)
    assert len(ends) == 4
    for one, other in itertools.combinations(ends.values(), 2):
        assert float((one - other).abs().max()) > 1e-3
