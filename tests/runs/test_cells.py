"""Suites expand to cells: which there are, each once, in the order in which they share work."""

from __future__ import annotations

from itertools import groupby
from typing import Any

import pytest

from basisbench.errors import BasisBenchError
from basisbench.registry import load_registry
from basisbench.results.record import CellConfig
from basisbench.runs.cells import expand
from basisbench.runs.runner import cell_blocks
from basisbench.runs.suite import Also, Suite, load_suite
from helpers.suite_content import CONTENT


def test_the_default_suite_is_the_whole_cross() -> None:
    suite = load_suite("pocket")
    assert suite.name == "pocket"
    assert (len(suite.tasks), len(suite.bases), len(suite.methods)) == (9, 10, 5)
    assert (suite.ablations, suite.error_policies) == (("mean",), ("coordinates",))
    assert min(suite.attribution_pairs, suite.evaluation_pairs) >= 100
    cells = expand(suite, load_registry())
    assert len(cells) == len(set(cells))
    main = [cell for cell in cells if not beside(cell) and cell.basis in suite.bases]
    assert len([cell for cell in main if cell.method in suite.methods]) == 9 * 10 * 5
    further = {(cell.task, cell.basis, cell.method) for cell in main if cell.method not in suite.methods}
    assert further == {(task, basis, "gim") for task in suite.tasks for basis in ("mlp_act", "mlp_out")}
    assert {cell.family for cell in cells} == {"mlp", "resid", "attn"}
    # Every dictionary stands beside its control, on every task.
    dictionaries = [name for name in suite.bases if not load_registry().get("basis", name).exact]
    others = [cell for cell in cells if not beside(cell) and cell.basis not in suite.bases]
    controls = sorted((task, f"permuted:{name}", "relp") for task in suite.tasks for name in dictionaries)
    assert sorted((cell.task, cell.basis, cell.method) for cell in others) == controls


def beside(cell: CellConfig) -> tuple[str, ...]:
    """Return what a cell of the default suite has otherwise than its main ones."""
    values = (cell.error_policy, cell.score_reference, cell.score_split)
    return tuple(sorted(set(values) - {"coordinates", "ablation", "attribution"}))


def test_the_default_suite_has_other_conditions_where_they_tell_something() -> None:
    suite, registry = load_suite("pocket"), load_registry()
    dictionaries = {name for name in suite.bases if not registry.get("basis", name).exact}
    assert len(dictionaries) == 5
    cells: dict[tuple[str, ...], list[CellConfig]] = {}
    for cell in expand(suite, registry):
        cells.setdefault(beside(cell), []).append(cell)
    assert cells.keys() == {(), ("node",), ("ablate",), ("counterfactual",), ("evaluation",)}
    for policy in ("node", "ablate"):
        assert {(cell.method, cell.basis) for cell in cells[policy,]} == {("relp", name) for name in dictionaries}
        assert len(cells[policy,]) == len(suite.tasks) * len(dictionaries)
    assert {cell.task for cell in cells["counterfactual",]} == {"ioi"}
    assert {(cell.task, cell.method) for cell in cells["evaluation",]} == {("sva_within_rc", "relp")}
    for condition in ("counterfactual", "evaluation"):
        assert {cell.basis for cell in cells[condition,]} >= set(suite.bases)
    controls = {cell.basis for cell in cells["evaluation",]} - set(suite.bases)
    assert controls == {f"permuted:{name}" for name in ("sae_mlp_out", "transcoder", "clt")}


def test_the_quick_suite_is_a_part_of_the_default_one_with_every_basis() -> None:
    registry = load_registry()
    quick, whole = (expand(load_suite(name), registry) for name in ("pocket-quick", "pocket"))
    assert set(quick) < set(whole)
    assert {cell.basis for cell in quick} == set(load_suite("pocket").bases)
    assert {cell.method for cell in quick} >= {"relp", "random"}


def test_cells_that_share_model_task_and_seed_are_adjacent() -> None:
    cells = expand(Suite.model_validate(CONTENT), load_registry())
    assert len(cells) == 2 * 2 * 2 * 2
    keys = [key for key, _ in groupby((cell.model, cell.task, cell.seed) for cell in cells)]
    assert len(keys) == len(set(keys)) == 4
    assert {cell.task_version for cell in cells if cell.task == "ioi"} == {load_registry().get("task", "ioi").version}
    assert {(cell.attribution_pairs, cell.evaluation_pairs) for cell in cells} == {(10, 20)}


def suite_with(**changes: Any) -> Suite:
    """Return a suite of two tasks, an exact basis and a dictionary, two methods, one ablation and one seed."""
    lists = {"bases": ["mlp_act", "sae_mlp_out"], "methods": ["relp", "ixg"], "ablations": ["mean"], "seeds": [0]}
    return Suite.model_validate({**CONTENT, **lists, **changes})


def conditions(suite: Suite) -> list[tuple[str, ...]]:
    """Return what tells cells apart, without what all have in common; order plays no part."""
    cells = [
        (cell.task, cell.basis, cell.method, cell.error_policy, cell.score_reference, cell.score_split)
        for cell in expand(suite, load_registry())
    ]
    shared = {"coordinates", "ablation", "attribution"}
    return sorted((*names[:3], *(name for name in names[3:] if name not in shared)) for names in cells)


CROSS = [
    (task, basis, method)
    for task in ("ioi", "sva_rc")
    for basis in ("mlp_act", "sae_mlp_out")
    for method in ("ixg", "relp")
]


def test_a_basis_without_error_is_not_repeated_for_error_policies() -> None:
    suite = suite_with(error_policies=["node", "keep"], methods=["relp"], tasks=["ioi"])
    dictionary = [("ioi", "sae_mlp_out", "relp", policy) for policy in ("keep", "node")]
    assert conditions(suite) == [("ioi", "mlp_act", "relp"), *dictionary]


@pytest.mark.parametrize(("also", "expected"), [
    ([], []),
    ([{"methods": ["relp"]}], []),  # cells that there are already
    (
        [{"methods": ["relp"], "error_policies": ["node", "ablate"]}],
        [(task, "sae_mlp_out", "relp", policy) for task in ("ioi", "sva_rc") for policy in ("node", "ablate")],
    ),
    (
        [{"tasks": ["ioi"], "score_references": ["ablation", "counterfactual"]}],
        [(*names, "counterfactual") for names in CROSS if names[0] == "ioi"],
    ),
    (
        [
            {"tasks": ["ioi"], "bases": ["mlp_act"], "score_splits": ["evaluation"]},
            {"methods": ["ixg"], "score_splits": ["evaluation"], "bases": ["mlp_act"]},
        ],
        [
            ("ioi", "mlp_act", "ixg", "evaluation"), ("ioi", "mlp_act", "relp", "evaluation"),
            ("sva_rc", "mlp_act", "ixg", "evaluation"),
        ],
    ),
    ([{"tasks": ["ioi"], "methods": ["ig"], "bases": ["mlp_act"]}], [("ioi", "mlp_act", "ig")]),
    (
        [{"methods": ["relp"], "bases": ["permuted:sae_mlp_out", "mlp_act"]}],  # a basis that the suite has not
        [(task, "permuted:sae_mlp_out", "relp") for task in ("ioi", "sva_rc")],
    ),
])  # fmt: skip
def test_also_adds_cells_with_other_lists_and_none_twice(also: list[dict[str, Any]], expected: list[Any]) -> None:
    assert conditions(suite_with(also=also)) == sorted([*CROSS, *expected])


def test_cells_of_one_session_and_of_one_basis_in_it_are_adjacent_whatever_is_added() -> None:
    also = [
        {"methods": ["relp"], "error_policies": ["node"]},
        {"tasks": ["ioi"], "seeds": [3]},
        {"bases": ["sae_mlp_out"], "attribution_draws": [0, 2]},
    ]
    cells = expand(suite_with(also=also, attribution_draws=[0, 1], seeds=[0, 1]), load_registry())
    assert len(cells) == len(set(cells))
    assert {(cell.seed, cell.attribution_draw) for cell in cells if cell.task == "ioi"} == {
        (0, 0), (0, 1), (1, 0), (1, 1), (0, 2), (1, 2), (3, 0), (3, 1),
    }  # fmt: skip
    sessions = [(cell.model, cell.task, cell.seed, cell.attribution_draw) for cell in cells]
    blocks = cell_blocks(cells)
    assert len(blocks) == len(set(sessions)) == len(list(groupby(sessions)))
    assert tuple(cell for block in blocks for cell in block.cells) == cells
    assert len({block.title for block in blocks}) == len(blocks)
    for block in blocks:
        bases = [cell.basis for cell in block.cells]
        assert len(list(groupby(bases))) == len(set(bases))


def test_also_takes_scores_from_other_numbers_of_pairs_in_sessions_of_their_own() -> None:
    also = [{"tasks": ["ioi"], "bases": ["mlp_act"], "attribution_pairs": [4, 10, 16]}, {"ablations": ["zero"]}]
    cells = expand(suite_with(also=also, methods=["relp"]), load_registry())
    few = {cell.attribution_pairs: cell for cell in cells if cell.attribution_pairs != CONTENT["attribution_pairs"]}
    assert set(few) == {4, 16}
    assert len(cells) == 2 * 2 + 2 + 2 * 2
    assert {(cell.task, cell.basis, cell.evaluation_pairs) for cell in few.values()} == {("ioi", "mlp_act", 20)}
    blocks = cell_blocks(cells)
    sizes = [(cell.task, cell.attribution_pairs) for block in blocks for cell in block.cells[:1]]
    assert sorted(sizes) == [("ioi", 4), ("ioi", 10), ("ioi", 16), ("sva_rc", 10)]
    assert len({block.title for block in blocks}) == len(blocks)
    left = suite_with(also=also).changed({"attribution_pairs": 6})
    assert left.also == Suite.model_validate({**CONTENT, "also": also[1:]}).also


def test_cells_of_different_beginnings_share_no_session() -> None:
    one, other = (expand(suite_with(bos=bos, tasks=["ioi"], seeds=[0]), load_registry()) for bos in ("auto", "never"))
    assert {cell.bos for cell in (*one, *other)} == {"auto", "never"}
    assert len(cell_blocks((*one, *other))) == 2


@pytest.mark.parametrize(("changes", "left"), [
    ({}, [0, 1, 2]),
    ({"models": ["other"]}, [0, 1, 2]),
    ({"methods": ["ixg"]}, [1, 2]),
    ({"methods": ["relp"]}, [0, 1, 2]),
    ({"tasks": ["sva_rc"]}, [0, 2]),
    ({"tasks": ["sva_simple"]}, [0]),
    ({"error_policies": ["keep"]}, [1, 2]),
    ({"score_references": ["ablation"], "score_splits": ["attribution"]}, [0]),
    ({"seeds": [7]}, [0, 1, 2]),
    ({"also": []}, []),
])  # fmt: skip
def test_what_is_asked_for_goes_before_what_a_suite_adds(changes: dict[str, Any], left: list[int]) -> None:
    also = [
        {"methods": ["relp"], "error_policies": ["node"]},
        {"tasks": ["ioi"], "score_references": ["counterfactual"]},
        {"tasks": ["sva_rc"], "score_splits": ["evaluation"]},
    ]
    suite = suite_with(also=also)
    assert suite.changed(changes).also == tuple(suite.also[index] for index in left)


def test_a_method_that_a_suite_adds_is_run_unless_others_are_asked_for() -> None:
    suite = suite_with(also=[{"methods": ["ig", "relp"], "bases": ["mlp_act"]}])
    assert suite.changed({"tasks": ["ioi"]}).also == suite.also
    assert suite.changed({"methods": ["relp"]}).also == (Also(methods=("relp",), bases=("mlp_act",)),)
    assert suite.changed({"methods": ["ixg"]}).also == ()
    added = suite_with(also=[{"methods": ["relp"], "bases": ["permuted:sae_mlp_out", "mlp_out"]}])
    assert added.all_bases == ("mlp_act", "sae_mlp_out", "permuted:sae_mlp_out", "mlp_out")
    assert added.changed({"bases": ["mlp_act"]}).also == ()
    assert added.changed({"bases": ["mlp_act", "mlp_out"]}).also == (Also(methods=("relp",), bases=("mlp_out",)),)
    with pytest.raises(BasisBenchError, match="no method named 'nonesuch'"):
        expand(suite_with(also=[{"methods": ["nonesuch"]}]), load_registry())


def test_of_names_that_a_suite_adds_for_those_stay_that_are_run() -> None:
    suite = suite_with(also=[{"tasks": ["ioi", "sva_rc"], "error_policies": ["node"]}])
    assert suite.changed({"tasks": ["sva_rc", "sva_simple"]}).also == (
        Also(tasks=("sva_rc",), error_policies=("node",)),
    )


@pytest.mark.parametrize(("name", "bases"), [("robust", 5), ("smollm2-robust", 4)])
def test_suites_of_robustness_change_one_choice_at_a_time(name: str, bases: int) -> None:
    suite = load_suite(name)
    cells = expand(suite, load_registry())
    usual = {
        "method": "relp", "ablation": "mean", "error_policy": "coordinates", "score_reference": "ablation",
        "score_split": "attribution", "granularity": "position", "attribution_draw": 0, "seed": 0,
        "attribution_pairs": suite.attribution_pairs,
    }  # fmt: skip
    changes: dict[tuple[str, object], set[tuple[str, str]]] = {}
    for cell in cells:
        own = [(choice, getattr(cell, choice)) for choice in usual if getattr(cell, choice) != usual[choice]]
        assert len(own) <= 1
        for each in own:
            changes.setdefault(each, set()).add((cell.task, cell.basis))
    assert {choice for choice, _ in changes} >= {*usual} - {"seed", "error_policy"}
    assert {value for choice, value in changes if choice == "attribution_draw"} == {1, 2, 3, 4}
    pairs = [value for choice, value in changes if choice == "attribution_pairs"]
    assert (min(pairs), max(pairs)) == (8, 256)
    assert all(len({basis for _, basis in found}) >= 3 for found in changes.values())
    assert len({cell.basis for cell in cells}) == bases
