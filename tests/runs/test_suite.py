"""Suites: read, checked, changed."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from basisbench.errors import BasisBenchError, BasisError, RecordError
from basisbench.registry import load_registry
from basisbench.results.record import Identities, cell_id
from basisbench.runs.cells import expand
from basisbench.runs.model_names import find_models
from basisbench.runs.runner import RunOptions
from basisbench.runs.suite import Suite, first_draws, list_suites, load_suite, read_layers
from helpers.suite_content import CONTENT


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


def test_every_built_in_suite_is_named_as_its_file_and_expands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for suite in list_suites():
        for model in suite.models:
            if "=" in model:
                leave_checkpoint(tmp_path / model.partition("=")[2])
        for basis in suite.bases:
            if basis.startswith("sae:dictionaries/"):
                leave_dictionaries(tmp_path / basis.removeprefix("sae:"), range(12, 22))
        assert load_suite(suite.name) == suite
        models = find_models(suite.models, load_registry(), {})
        named = suite.changed({"models": [model.name for model in models]})
        assert expand(named, RunOptions(tmp_path, models=models).registry())


def leave_checkpoint(folder: Path) -> None:
    """Leave what tells that a folder is a checkpoint, as `basisbench tune` does."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")


def leave_dictionaries(folder: Path, layers: range) -> None:
    """Leave what tells where dictionaries sit, as `basisbench train` does."""
    for layer in layers:
        names = {"hook_name": f"blocks.{layer}.hook_mlp_out", "hook_name_out": f"blocks.{layer}.hook_mlp_out"}
        kind = "jumprelu"
        if folder.name == "transcoder":
            kind, names["hook_name"] = "jumprelu_transcoder", f"blocks.{layer}.mlp.hook_in"
        (folder / f"layer_{layer}").mkdir(parents=True)
        (folder / f"layer_{layer}/cfg.json").write_text(json.dumps({"architecture": kind, "metadata": names}))


def test_the_suite_of_trained_dictionaries_asks_for_every_snapshot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    suite = load_suite("smollm2-dictionaries")
    with pytest.raises(BasisError, match=r"dictionaries/smollm2/sae.* no folder of that name exists here"):
        expand(suite, load_registry())
    folders = [tmp_path / basis.removeprefix("sae:") for basis in suite.bases if basis.startswith("sae:")]
    for folder in folders:
        leave_dictionaries(folder, range(10, 22))
    cells = expand(suite, load_registry())
    assert {cell.layers for cell in cells} == {tuple(range(12, 22))}, "neurons are restricted alike"
    controls = [basis for basis in suite.bases if basis.startswith(("permuted:", "random:"))]
    assert {name.partition(":")[2] for name in controls} < set(suite.bases)
    assert len(cells) == len(suite.tasks) * (3 + 3 * (len(folders) + len(controls)))
    found = {folder.relative_to(tmp_path / "dictionaries/smollm2").as_posix() for folder in folders}
    snapshots = ("", *(f"snapshots/{tokens}/" for tokens in (50_000, 100_000, 250_000, 500_000, 1_000_000)))
    assert found == {f"{snapshot}{kind}" for snapshot in snapshots for kind in ("sae", "transcoder")}


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
        (
            "score_splits",
            ["test"],
            "score_splits[0]: input should be 'attribution', 'evaluation' or 'other_templates', found 'test'",
        ),
        ("attribution_draws", [0, 0], "attribution_draws: '0' is given twice"),
        ("attribution_draws", [-1], "attribution_draws[0]: input should be greater than or equal to 0, found -1"),
        ("bos", "sometimes", "bos: input should be 'auto', 'always' or 'never', found 'sometimes'"),
        ("subset_blocks", 1, "subset_blocks: a half is of two blocks at least, found 1; 0 for no search"),
        ("subset_blocks", 1001, "subset_blocks: input should be less than or equal to 1000, found 1001"),
        ("subset_sizes", [], "subset_blocks: 4 blocks, but subset_sizes names no circuit sizes"),
        ("also", {"tasks": ["ioi"]}, "also: input should be a valid tuple"),
        ("also", [{}], "also: entry 1 changes nothing"),
        ("also", [{"models": ["x"]}], "also[0].models: extra inputs are not permitted"),
        ("also", [{"seeds": [1]}, {"tasks": []}], "also[1].tasks: tuple should have at least 1 item"),
        ("also", [{"tasks": ["user_age"]}], "also: entry 1 names 'user_age', which is not among the suite's tasks"),
        ("also", [{"error_policies": ["drop"]}], "also[0].error_policies[0]: input should be 'coordinates'"),
        ("also", [{"attribution_pairs": 8}], "also[0].attribution_pairs: input should be a valid tuple, found 8"),
        ("also", [{"attribution_pairs": [8, 0]}], "also[0].attribution_pairs[1]: input should be greater than"),
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
    with pytest.raises(
        RecordError, match="kl: it is of one position, and logprob has several: set kl to false, or metric to logit"
    ):
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
