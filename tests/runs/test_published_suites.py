"""Suites of published models and dictionaries: every name in them exists, and one dictionary stands for each layer."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from basisbench.cli import main
from basisbench.errors import BasisBenchError
from basisbench.registry import load_registry
from basisbench.results.frame import load_results
from basisbench.results.reported import beside_reported, read_reported, render_reported
from basisbench.runs.cells import expand, few_cells
from basisbench.runs.dry_run import estimate_run
from basisbench.runs.pin import pin_suite, repositories_of
from basisbench.runs.run import FEW_PAIRS, Request, plan_request
from basisbench.runs.runner import RunOptions
from basisbench.runs.suite import Suite, list_suites, load_suite
from helpers.synthetic_records import synthetic_record

PUBLISHED = ("gemma-2-2b", "gemma-3-270m", "gpt2-small", "llama-3.1-8b", "paper", "pythia-70m", "qwen3-0.6b")
PUBLISHED_DICTIONARIES = {
    "gpt2-small": {
        *(f"gpt2-small-{kind}-v5-32k" for kind in ("resid-post", "mlp-out", "attn-out")), "gpt2-small-res-jb",
    },
    "pythia-70m": {"pythia-70m-deduped-res-sm", "pythia-70m-deduped-mlp-sm", "pythia-70m-deduped-att-sm"},
    "gemma-3-270m": {f"gemma-scope-2-270m-pt-{kind}-all" for kind in ("res", "mlp", "att", "transcoders")},
    "gemma-2-2b": {
        *(f"gemma-scope-2b-pt-{kind}-canonical" for kind in ("res", "mlp", "att")), "gemma-scope-2b-pt-transcoders",
        "mntss/clt-gemma-2-2b-426k",
    },
    "qwen3-0.6b": {"mwhanna-qwen3-0.6b-transcoders-lowl0"},
    "llama-3.1-8b": {f"llama_scope_lx{kind}_8x" for kind in "rma"},
    "paper": {f"llama_scope_lx{kind}_{width}x" for kind in "rma" for width in (8, 32)},
}  # fmt: skip
COMMIT = re.compile(r"[0-9a-f]{40}")


def releases() -> dict[str, Any]:
    import sae_lens

    path = Path(sae_lens.__file__).parent / "pretrained_saes.yaml"
    listed: dict[str, Any] = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)
    return listed


@pytest.fixture(scope="module")
def listed() -> dict[str, Any]:
    """SAELens's own list of releases."""
    return releases()


def test_these_suites_are_there() -> None:
    assert {suite.name for suite in list_suites()} >= {*PUBLISHED, "pocket"}


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_every_dictionary_exists_and_there_is_one_per_layer(name: str, listed: dict[str, Any]) -> None:
    suite, registry = load_suite(name), load_registry()
    assert suite.models == ("llama-3.1-8b" if name == "paper" else name,)
    shape = registry.get("model", suite.models[0]).shape
    assert shape is not None
    assert {basis.split(":")[1] for basis in suite.bases if ":" in basis} == PUBLISHED_DICTIONARIES[name]
    families = set()
    for basis in suite.bases:
        spec = registry.get("basis", basis)
        families.add(spec.family)
        if basis.startswith("sae:"):
            release = listed[basis.split(":")[1]]
            assert spec.layers == tuple(range(shape.layers))
            assert spec.repositories == {release["repo_id"]: None}
    cells = expand(suite, registry)
    assert len(cells) == len(set(cells))
    for family in families:
        assert {cell.basis for cell in cells if cell.family == family} & {"mlp_act", "mlp_out", "resid", "attn_out"}


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_every_repository_is_pinned_or_said_to_be_open(name: str) -> None:
    suite = load_suite(name)
    assert set(repositories_of(suite, load_registry())) == set(suite.revisions)
    assert all(revision == "main" or COMMIT.fullmatch(revision) for revision in suite.revisions.values())
    model = plan_request(Request(name, {}, RunOptions(out=Path("unused")))).models[0]
    assert model.revision == suite.revisions[model.path]
    assert COMMIT.fullmatch(str(model.revision)), "a model's commit decides the numbers"


@pytest.mark.parametrize("name", PUBLISHED)
def test_what_a_suite_expects_is_what_a_dry_run_says(name: str, tmp_path: Path) -> None:
    suite = load_suite(name)
    assert suite.expected is not None
    assert not suite.expected.measured
    assert set(suite.dictionary_units) <= set(suite.bases)
    device = "cpu" if "CPU" in suite.expected.machine else "cuda"
    estimate = estimate_run(plan_request(Request(name, {}, RunOptions(out=tmp_path, device=device))))
    assert suite.expected.memory_gib == pytest.approx(estimate.memory.total / 2**30, rel=0.3)
    assert suite.expected.least_memory_gib == pytest.approx(estimate.memory.smallest / 2**30, rel=0.3)
    assert suite.expected.disk_gib == pytest.approx(estimate.disk / 2**30, rel=0.1)
    assert suite.expected.hours == pytest.approx(estimate.seconds / 3600, rel=0.3)


@pytest.mark.parametrize("name", [*(pytest.param(name, marks=pytest.mark.slow) for name in PUBLISHED), "pocket"])
def test_a_few_cells_meet_everything_there_is(name: str, tmp_path: Path) -> None:
    suite = load_suite(name)
    cells = expand(suite, load_registry())
    # Error policies that `also` names come with one method: a cell can meet a further one of these or of those.
    policies = {cell.error_policy for cell in cells}
    # So does a further method come with some bases.
    further = {cell.method for cell in cells} - set(suite.methods)
    count = max(len(suite.all_bases) + len(further), len(suite.methods) + len(policies) - 1, len(suite.tasks))
    few = few_cells(cells, count)
    assert len(few) == count
    for field in ("basis", "method", "task", "error_policy"):
        assert {getattr(cell, field) for cell in few} == {getattr(cell, field) for cell in cells}, field
    assert list(few) == [cell for cell in cells if cell in set(few)], "in the suite's order"
    assert few_cells(cells, 10**6) == cells

    plan = plan_request(Request(name, {}, RunOptions(out=tmp_path), limit=3))
    chosen = [cell for block in plan.blocks for cell in block.cells]
    assert len(chosen) == 3
    assert {(cell.attribution_pairs, cell.evaluation_pairs) for cell in chosen} == {(FEW_PAIRS, FEW_PAIRS)}
    asked = plan_request(Request(name, {"evaluation_pairs": 40}, RunOptions(out=tmp_path), limit=3))
    assert {cell.evaluation_pairs for block in asked.blocks for cell in block.cells} == {40}


def test_the_papers_protocol() -> None:
    suite = load_suite("paper")
    assert set(suite.tasks) == {"sva_simple", "sva_nounpp", "sva_rc", "sva_within_rc"}
    assert (suite.attribution_pairs, suite.evaluation_pairs) == (300, 40)
    assert set(suite.methods) == {"ig", "relp", "ig_inputs", "magnitude", "random"}
    assert set(suite.error_policies) == {"keep", "ablate", "node"}
    assert suite.ablations == ("mean",)
    assert suite.score_references == ("counterfactual",)


def write_cache(home: Path, repositories: dict[str, str]) -> None:
    for repository, commit in repositories.items():
        folder = home / "hub" / f"models--{repository.replace('/', '--')}"
        (folder / "refs").mkdir(parents=True)
        (folder / "refs" / "main").write_text(commit, encoding="utf-8")
        (folder / "snapshots" / commit).mkdir(parents=True)


def test_pinning_writes_the_commits_of_the_day(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    suite = load_suite("pocket").changed(
        {"models": ["org/model"], "bases": ["resid", "sae:gpt2-small-res-jb"], "revisions": {"other/thing": "kept"}}
    )
    mine = tmp_path / "mine.yaml"
    mine.write_text(yaml.safe_dump(suite.model_dump(mode="json")), encoding="utf-8")
    out = tmp_path / "pinned.yaml"

    write_cache(tmp_path, {"org/model": "a" * 40})
    assert main(["pin", str(mine), "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert "jbloom/GPT2-Small-SAEs-Reformatted is not in the cache" in error
    assert error.count("\n") == 1
    assert not out.exists()

    write_cache(tmp_path, {"jbloom/GPT2-Small-SAEs-Reformatted": "b" * 40})
    assert main(["pin", str(mine), "--out", str(out)]) == 0
    assert "2 repositories pinned" in capsys.readouterr().out
    pinned = load_suite(out)
    commits = {"org/model": "a" * 40, "jbloom/GPT2-Small-SAEs-Reformatted": "b" * 40}
    assert pinned == Suite.model_validate({**suite.model_dump(), "revisions": {"other/thing": "kept", **commits}})
    with pytest.raises(BasisBenchError, match=r"the name of a suite file ends in \.yaml"):
        pin_suite(str(mine), load_registry(), tmp_path / "pinned.txt")


def test_a_revision_in_the_name_of_a_basis_goes_before_the_suite_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    names = {f"sae:gpt2-small-res-jb@{'c' * 40}": "resid", f"clt:org/name@{'d' * 40}": "mlp"}
    suite = load_suite("pocket").changed({"bases": list(names), "revisions": {"org/name": "main"}})
    wanted = repositories_of(suite, load_registry())
    assert wanted == {"jbloom/GPT2-Small-SAEs-Reformatted": "c" * 40, "org/name": "d" * 40}


def test_reported_values_stand_beside_records(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from basisbench.results.store import Store

    reported = read_reported("paper")
    assert {(value.task, value.size): (value.faithfulness, value.completeness) for value in reported.values} == {
        ("sva_simple", 40): (0.74, 0.46), ("sva_simple", 100): (0.85, 0.25), ("sva_simple", 200): (0.90, 0.15),
        ("sva_nounpp", 40): (0.90, 0.25), ("sva_nounpp", 100): (0.93, 0.12), ("sva_nounpp", 200): (0.95, 0.08),
    }  # fmt: skip
    record = synthetic_record("sva_simple", "mlp_act", "relp")
    other = record.model_copy(update={"cell": record.cell.model_copy(update={"model": "other"})})
    ours = record.model_copy(update={"cell": record.cell.model_copy(update={"model": "llama-3.1-8b"})})
    for each in (other, ours):
        Store(tmp_path).write(each)
    frame = load_results(tmp_path)
    table = beside_reported(frame, reported)
    mine = frame[frame["model"] == "llama-3.1-8b"].set_index("size")
    row = table[(table["task"] == "sva_simple") & (table["size"] == 100)]
    assert len(row) == 1, "records of another model are left aside"
    assert row["faithfulness"].item() == pytest.approx(mine.loc[100, "faithfulness"])
    between = table[(table["task"] == "sva_simple") & (table["size"] == 40)]["faithfulness"].item()
    assert min(mine.loc[20:50, "faithfulness"]) <= between <= max(mine.loc[20:50, "faithfulness"])
    assert table[table["task"] == "sva_nounpp"]["faithfulness"].isna().all()

    assert main(["compare", str(tmp_path), "--reported", "paper"]) == 0
    text = capsys.readouterr().out
    assert "reported by an independent reimplementation" in text
    assert text.count("no record") == 6
    assert main(["compare", str(tmp_path), "--reported", "papre"]) == 2
    assert "did you mean paper?" in capsys.readouterr().err
    assert "no record" in render_reported(pd.DataFrame(), reported)
