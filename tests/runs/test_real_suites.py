"""The suites of the packaged models: which cells they have, and that they are of those models alone."""

from __future__ import annotations

from collections import Counter

import pytest

from basisbench.registry import load_registry
from basisbench.results.record import CellConfig
from basisbench.runs.cells import expand
from basisbench.runs.suite import load_suite
from basisbench_tasks.known_functions import PROVIDES as KNOWN
from basisbench_tasks.user_attributes import PROVIDES

AGREEMENT = {"sva_simple", "sva_rc", "sva_nounpp", "sva_within_rc"}
MLP = {"mlp_act", "mlp_out"}
LARGE = ("smollm2-135m-q4", "gemma-3-270m-q4")
NEURONS = {*MLP, "mlp_act_rotated", "resid", "attn_z", "attn_out"}


def cells_of(name: str) -> tuple[CellConfig, ...]:
    suite = load_suite(name)
    assert (suite.attribution_pairs, suite.evaluation_pairs) == (50, 50)
    cells = expand(suite, load_registry())
    assert {cell.model for cell in cells} == {name if name in LARGE else "smollm2-135m-q4"}
    assert len(cells) == len(set(cells))
    return cells


def test_the_first_run_has_every_agreement_and_its_bases_and_methods_crossed() -> None:
    cells = cells_of("smollm2-quick")
    tasks = {cell.task for cell in cells}
    assert tasks > {*AGREEMENT, "ioi"}
    assert tasks - {*AGREEMENT, "ioi"} == {"user_occupation_statement"}
    assert len(cells) == 4 * len(tasks) == 24
    assert {(cell.basis, cell.method) for cell in cells} == {(x, y) for x in MLP for y in ("relp", "ixg")}


def test_chats_are_for_the_model_that_has_a_template_and_user_tasks_are_not_the_pocket_model_s() -> None:
    user = {name: {cell.task for cell in cells_of(name)} - {*AGREEMENT, "ioi"} for name in LARGE}
    text = {task.name for task in PROVIDES if not task.name.endswith("_chat")}
    assert user["gemma-3-270m-q4"] == text
    assert user["smollm2-135m-q4"] == text | {"user_occupation_statement_chat", "user_country_statement_chat"}


def test_the_study_of_the_user_has_belief_and_response_of_each_attribute_in_both_formats() -> None:
    cells = cells_of("user-model")
    assert {cell.task for cell in cells} == {task.name for task in PROVIDES}
    assert Counter((cell.basis, cell.method, cell.ablation) for cell in cells) == {
        (basis, method, ablation): len(PROVIDES)
        for basis in MLP
        for method, ablation in (("relp", "mean"), ("random", "mean"), ("relp", "counterfactual"))
    }


def test_what_models_know_is_asked_of_both_beside_a_floor() -> None:
    cells = expand(load_suite("known"), load_registry())
    assert {cell.model for cell in cells} == {*LARGE}
    assert {cell.task for cell in cells} == {task.name for task in KNOWN}
    assert {(cell.basis, cell.method) for cell in cells} == {(x, y) for x in MLP for y in ("relp", "random")}
    assert len(cells) == 2 * 4 * len(KNOWN)


@pytest.mark.parametrize("name", LARGE)
def test_every_task_has_every_basis_and_what_is_too_much_for_all_is_some_cells(name: str) -> None:
    cells = cells_of(name)
    tasks = {cell.task for cell in cells}
    assert tasks > {*AGREEMENT, "ioi"}
    assert {cell.basis for cell in cells} == NEURONS
    everywhere = len(tasks) * len(NEURONS)
    assert Counter((cell.method, cell.ablation, cell.attribution_draw) for cell in cells) == {
        **{(method, "mean", 0): everywhere for method in ("relp", "ixg", "magnitude", "random")},
        ("relp", "counterfactual", 0): everywhere,
        ("ig", "mean", 0): 3 * len(MLP),
        ("ig_inputs", "mean", 0): 3 * len(MLP),
        ("relp", "mean", 1): len(tasks) * len(MLP),
        ("relp", "mean", 2): len(tasks) * len(MLP),
        ("gim", "mean", 0): len(tasks) * len(MLP),
    }
    assert {cell.task for cell in cells if cell.method.startswith("ig")} == {"ioi", "sva_rc", "sva_simple"}
    few = [cell for cell in cells if cell.method in ("ig", "ig_inputs") or cell.attribution_draw]
    assert {cell.basis for cell in few} == MLP
