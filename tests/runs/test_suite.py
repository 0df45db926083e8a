"""Suites: read, checked, changed, expanded."""

from __future__ import annotations

import re
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from basisbench.errors import BasisBenchError, RecordError
from basisbench.registry import load_registry
from basisbench.results.record import CellConfig, Identities, cell_id
from basisbench.runs.cells import expand
from basisbench.runs.runner import cell_blocks
from basisbench.runs.suite import Also, Suite, first_draws, list_suites, load_suite, read_layers

CONTENT: dict[str, Any] = {
    "name": "mine",
    "summary": "a suite for tests",
    "models": ["pocket-llama"],
    "tasks": ["ioi", "sva_rc"],
    "bases": ["mlp_act", "resid"],
    "methods": ["relp"],
    "ablations": ["mean", "zero"],
    "error_policies": ["coordinates"],
    "score_references": ["ablation"],
    "score_splits": ["attribution"],
    "granularities": ["position"],
    "seeds": [0, 1],
    "attribution_draws": [0],
    "bos": "auto",
    "attribution_pairs": 10,
    "evaluation_pairs": 20,
    "kl": True,
    "subset_sizes": [5],
    "subset_draws": 2,
}


def write(folder: Path, content: object) -> Path:
    path = folder / "mine.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content), encoding="utf-8")
    return path


def refuse(folder: Path, content: object) -> str:
    path = write(folder, content)
    with pytest.raises(RecordError) as caught:
        load_suite(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message.removeprefix(f"{path}: ")


def test_the_default_suite_is_the_whole_cross() -> None:
    suite = load_suite("pocket")
    assert suite.name == "pocket"
    assert (len(suite.tasks), len(suite.bases), len(suite.methods)) == (9, 10, 5)
    assert (suite.ablations, suite.error_policies) == (("mean",), ("coordinates",))
    assert min(suite.attribution_pairs, suite.evaluation_pairs) >= 100
    cells = expand(suite, load_registry())
    assert len(cells) == len(set(cells))
    main = [cell for cell in cells if not beside(cell)]
    assert len(main) == 9 * 10 * 5
    assert {cell.family for cell in cells} == {"mlp", "resid", "attn"}


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
        assert {cell.basis for cell in cells[condition,]} == set(suite.bases)


def test_every_built_in_suite_is_named_as_its_file_and_expands() -> None:
    for suite in list_suites():
        assert load_suite(suite.name) == suite
        assert expand(suite, load_registry())


def test_a_file_says_what_is_run_and_defaults_fill_the_rest(tmp_path: Path) -> None:
    whole = load_suite(write(tmp_path, CONTENT)).model_dump(mode="json")
    later = {
        "metric": "logit",
        "layers": None,
        "also": [],
        "dtype": None,
        "revisions": {},
        "dictionary_units": {},
        "expected": None,
    }
    assert whole == {**CONTENT, **later}
    required = {"name", "summary", "models", "tasks", "bases", "methods"}
    short = load_suite(write(tmp_path, {name: CONTENT[name] for name in required}))
    assert (short.ablations, short.error_policies, short.granularities) == (("mean",), ("coordinates",), ("position",))
    assert (short.score_references, short.score_splits, short.bos) == (("ablation",), ("attribution",), "auto")
    assert (short.seeds, short.attribution_pairs, short.evaluation_pairs) == ((0,), 100, 100)
    assert (short.attribution_draws, short.also) == ((0,), ())
    assert (short.kl, short.subset_sizes) == (False, ())


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
    with pytest.raises(BasisBenchError, match="no method named 'nonesuch'"):
        expand(suite_with(also=[{"methods": ["nonesuch"]}]), load_registry())


def test_of_names_that_a_suite_adds_for_those_stay_that_are_run() -> None:
    suite = suite_with(also=[{"tasks": ["ioi", "sva_rc"], "error_policies": ["node"]}])
    assert suite.changed({"tasks": ["sva_rc", "sva_simple"]}).also == (
        Also(tasks=("sva_rc",), error_policies=("node",)),
    )


@pytest.mark.parametrize("field", ["models", "tasks", "bases", "methods"])
def test_an_unknown_name_is_told_with_a_suggestion(field: str) -> None:
    kind = {"models": "model", "tasks": "task", "bases": "basis", "methods": "method"}[field]
    suite = Suite.model_validate({**CONTENT, field: ["nonesuch"]})
    with pytest.raises(BasisBenchError, match=f"no {kind} named 'nonesuch'; "):
        expand(suite, load_registry())


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("dtype", "float8", "dtype: input should be 'float32', 'bfloat16' or 'float16', found 'float8'"),
        ("revisions", {"org/name": 3}, "revisions.org/name: input should be a valid string, found 3"),
        ("dictionary_units", {"sae:x": 0}, "dictionary_units.sae:x: input should be greater than or equal to 1"),
        (
            "expected",
            {"machine": "", "memory_gib": 1, "least_memory_gib": 1, "disk_gib": 1, "hours": 1},
            "expected.machine: string should",
        ),
        ("tasks", None, "tasks: input should be a valid tuple, found None"),
        ("tasks", [], "tasks: tuple should have at least 1 item"),
        ("tasks", "ioi", "tasks: input should be a valid tuple, found 'ioi'"),
        ("tasks", ["ioi", "ioi"], "tasks: 'ioi' is given twice"),
        ("bases", [["mlp_act"]], "bases[0]: input should be a valid string, found ['mlp_act']"),
        ("ablations", ["mean", "median"], "ablations[1]: input should be 'mean', 'counterfactual' or 'zero'"),
        ("error_policies", ["drop"], "error_policies[0]: input should be 'coordinates', 'rotated', 'node', 'keep' or"),
        ("score_references", ["mean"], "score_references[0]: input should be 'ablation' or 'counterfactual', found"),
        ("score_splits", ["test"], "score_splits[0]: input should be 'attribution' or 'evaluation', found 'test'"),
        ("attribution_draws", [0, 0], "attribution_draws: '0' is given twice"),
        ("attribution_draws", [-1], "attribution_draws[0]: input should be greater than or equal to 0, found -1"),
        ("bos", "sometimes", "bos: input should be 'auto', 'always' or 'never', found 'sometimes'"),
        ("also", {"tasks": ["ioi"]}, "also: input should be a valid tuple"),
        ("also", [{}], "also: entry 1 changes nothing"),
        ("also", [{"models": ["x"]}], "also[0].models: extra inputs are not permitted"),
        ("also", [{"seeds": [1]}, {"tasks": []}], "also[1].tasks: tuple should have at least 1 item"),
        ("also", [{"tasks": ["user_age"]}], "also: entry 1 names 'user_age', which is not among the suite's tasks"),
        ("also", [{"error_policies": ["drop"]}], "also[0].error_policies[0]: input should be 'coordinates'"),
        ("granularities", ["token"], "granularities[0]: input should be 'position' or 'unit', found 'token'"),
        ("seeds", [0.5], "seeds[0]: input should be a valid integer"),
        ("evaluation_pairs", 0, "evaluation_pairs: input should be greater than or equal to 1, found 0"),
        ("basis", ["mlp_act"], "basis: extra inputs are not permitted"),
        (3, "x", "field names must be text, found 3"),
    ],
)
def test_a_wrong_field_is_named(tmp_path: Path, field: object, value: object, expected: str) -> None:
    assert expected in refuse(tmp_path, {**CONTENT, field: value})  # type: ignore[dict-item]


@pytest.mark.parametrize("field", ["name", "summary", "models", "tasks", "bases", "methods"])
def test_a_missing_field_is_named(tmp_path: Path, field: str) -> None:
    assert (
        refuse(tmp_path, {key: value for key, value in CONTENT.items() if key != field}) == f"{field}: field required"
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("name: [a", "not YAML: expected ',' or ']', but got '<stream end>' at line 1, column 9"),
        ("a: b: c", "not YAML: mapping values are not allowed here at line 1, column 5"),
        ("", "expected fields such as 'name:' and 'tasks:', found nothing"),
        ("- a", "expected fields such as 'name:' and 'tasks:', found list"),
        ("!!python/object:os.system {}", "not YAML: could not determine a constructor"),
        ("[" * 500, "nested too deep for a suite"),
        ("a: !!int x", "holds a value that YAML cannot read: invalid literal"),
        ("a: 2020-99-99", "holds a value that YAML cannot read: month must be in 1..12"),
        ("a: !!bool x", "holds a value that YAML cannot read"),
        ("a: &a [*a]", "its aliases (&name, *name) repeat each other beyond all bounds"),
        ("name: " + "a" * 1024 * 1024, "bytes, but at most 1048576 are allowed"),
    ],
)
def test_what_is_not_a_suite_is_told(tmp_path: Path, text: str, expected: str) -> None:
    assert expected in refuse(tmp_path, text)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"seeds": [2**70]}, "seeds[0]: input should be less than or equal to 9007199254740992"),
        ({"evaluation_pairs": 2**70}, "evaluation_pairs: input should be less than or equal to 9007199254740992"),
        ({"seeds": range(1001)}, "seeds: tuple should have at most 1000 items"),
    ],
)
def test_numbers_beyond_all_bounds_are_refused(changes: dict[str, object], said: str) -> None:
    with pytest.raises(RecordError, match=re.escape(said)):
        load_suite("pocket").changed(changes)


def test_more_draws_and_cells_than_a_run_can_do_are_refused_at_once() -> None:
    with pytest.raises(BasisBenchError, match="draws: at most 1000, found 1e\\+12"):
        first_draws(10**12)
    suite = load_suite("pocket").changed({"seeds": tuple(range(1000)), "attribution_draws": first_draws(1000)})
    with pytest.raises(BasisBenchError, match=r"suite 'pocket' asks for .* cells, at most 100000 in one run"):
        expand(suite, load_registry())


@pytest.mark.parametrize("given", ["0-1, 3", [3, 0, 1], (0, 1, 3), "3,0-1"])
def test_layers_are_ranges_or_lists_and_restrict_every_cell(given: object) -> None:
    suite = load_suite("pocket").changed({"layers": given})
    assert suite.layers == read_layers(given) == (0, 1, 3)  # type: ignore[arg-type] # an object
    assert {cell.layers for cell in expand(suite, load_registry())} == {(0, 1, 3)}


@pytest.mark.parametrize("given", ["", "3-1", "a", "1,,2", "-1", [-1], [1, 1], "1,1", [], "0-9999", {"a": 1}, 3])
def test_layers_that_are_none_are_refused(given: object) -> None:
    with pytest.raises(BasisBenchError, match="layers"):
        read_layers(given)  # type: ignore[arg-type] # an object
    with pytest.raises(RecordError, match="layers"):
        load_suite("pocket").changed({"layers": given})


def test_the_metric_is_a_condition_of_its_own() -> None:
    suite = load_suite("pocket").changed({"metric": "logprob"})
    cells = expand(suite, load_registry())
    assert {cell.metric for cell in cells} == {"logprob"}
    usual = cells[0].model_copy(update={"metric": "logit"})
    identities = Identities(model="a" * 8, dictionary=None, data="b" * 8)
    assert cell_id(cells[0], identities) != cell_id(usual, identities)
    with pytest.raises(RecordError, match="kl: the divergence is measured at one position"):
        suite.changed({"kl": True})


def test_missing_files_and_names_are_told(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"none\.yaml: cannot be read: No such file"):
        load_suite(tmp_path / "none.yaml")
    with pytest.raises(BasisBenchError, match="no suite named 'poket'; did you mean pocket"):
        load_suite("poket")
    binary = tmp_path / "binary.yml"
    binary.write_bytes(b"name: \xff")
    with pytest.raises(RecordError, match="not UTF-8 text at byte 6"):
        load_suite(binary)


def test_changes_are_checked_and_none_leaves_a_field_alone() -> None:
    suite = Suite.model_validate(CONTENT)
    assert suite.changed({"tasks": None}) == suite
    assert suite.changed({"tasks": ["ioi"], "seeds": (7,)}).seeds == (7,)
    with pytest.raises(RecordError, match=r"suite 'mine' as changed: tasks: 'ioi' is given twice"):
        suite.changed({"tasks": ["ioi", "ioi"]})


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100)
@given(
    field=st.sampled_from(sorted(CONTENT)),
    value=st.sampled_from([None, [], {}, -1, 1.5, "", [None], [{}], {"a": 1}, ["\n" * 99, 0]]),
)
def test_any_single_damage_is_refused_naming_its_field(tmp_path: Path, field: str, value: object) -> None:
    if (field, value) == ("subset_sizes", []):
        return  # no random halves is the default
    assert refuse(tmp_path, {**CONTENT, field: value}).startswith(field)
