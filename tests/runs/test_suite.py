"""Suites: read, checked, changed, expanded."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from basisbench.errors import BasisBenchError, RecordError
from basisbench.registry import load_registry
from basisbench.runs.suite import Suite, expand, list_suites, load_suite

CONTENT: dict[str, Any] = {
    "name": "mine",
    "summary": "a suite for tests",
    "models": ["pocket-llama"],
    "tasks": ["ioi", "sva_rc"],
    "bases": ["mlp_act", "resid"],
    "methods": ["relp"],
    "ablations": ["mean", "zero"],
    "error_policies": ["node"],
    "granularities": ["position"],
    "seeds": [0, 1],
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
    assert (suite.ablations, suite.error_policies) == (("mean",), ("node",))
    assert min(suite.attribution_pairs, suite.evaluation_pairs) >= 100
    cells = expand(suite, load_registry())
    assert len(cells) == len(set(cells)) == 9 * 10 * 5
    assert {cell.family for cell in cells} == {"mlp", "resid", "attn"}


def test_every_built_in_suite_is_named_as_its_file_and_expands() -> None:
    for suite in list_suites():
        assert load_suite(suite.name) == suite
        assert expand(suite, load_registry())


def test_a_file_says_what_is_run_and_defaults_fill_the_rest(tmp_path: Path) -> None:
    whole = load_suite(write(tmp_path, CONTENT)).model_dump(mode="json")
    later = {"dtype": None, "revisions": {}, "dictionary_units": {}, "expected": None}
    assert whole == {**CONTENT, **later}
    required = {"name", "summary", "models", "tasks", "bases", "methods"}
    short = load_suite(write(tmp_path, {name: CONTENT[name] for name in required}))
    assert (short.ablations, short.error_policies, short.granularities) == (("mean",), ("node",), ("position",))
    assert (short.seeds, short.attribution_pairs, short.evaluation_pairs) == ((0,), 100, 100)
    assert (short.kl, short.subset_sizes) == (False, ())


def test_cells_that_share_model_task_and_seed_are_adjacent() -> None:
    cells = expand(Suite.model_validate(CONTENT), load_registry())
    assert len(cells) == 2 * 2 * 2 * 2
    keys = [key for key, _ in groupby((cell.model, cell.task, cell.seed) for cell in cells)]
    assert len(keys) == len(set(keys)) == 4
    assert {cell.task_version for cell in cells if cell.task == "ioi"} == {load_registry().get("task", "ioi").version}
    assert {(cell.attribution_pairs, cell.evaluation_pairs) for cell in cells} == {(10, 20)}


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
        ("error_policies", ["drop"], "error_policies[0]: input should be 'node', 'keep' or 'ablate', found 'drop'"),
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
    ],
)
def test_what_is_not_a_suite_is_told(tmp_path: Path, text: str, expected: str) -> None:
    assert expected in refuse(tmp_path, text)


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
