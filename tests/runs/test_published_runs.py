"""Suites of published models, offline, on a copy of the hub's cache with tiny random weights."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from statistics import median

import pytest
import yaml

from basisbench.cli import main
from basisbench.results.record import read_record
from basisbench.runs.run import Request, run_request
from basisbench.runs.runner import RunOptions
from basisbench.runs.suite import list_suites, load_suite
from helpers.hub_replica import MODELS, HubReplica, gemma_2_replica, replica

SUITES = tuple(suite.name for suite in list_suites() if suite.revisions)  # others need no hub
"""Every suite file: one that names what no copy of the cache holds fails here."""


@pytest.fixture
def hub(request: pytest.FixtureRequest) -> Iterator[HubReplica]:
    """The copy of the cache, which the hub's client reads inside the test."""
    name = request.node.callspec.params["name"] if hasattr(request.node, "callspec") else ""
    copy = gemma_2_replica() if name and load_suite(name).models == ("gemma-2-2b",) else replica()
    with copy.in_use():
        yield copy


def on_main_branches(name: str, folder: Path) -> Path:
    """Write a suite without its pins: the copy of the cache has commits of its own.

    Of Gemma 2 the copy holds two layers of 26, and of Gemma Scope 2's transcoders those with a skip
    connection.
    """
    content = load_suite(name).model_dump(mode="json", exclude_defaults=True)
    del content["revisions"]
    renamed = {basis: basis for basis in content["bases"]}
    for basis in renamed:
        if "transcoders-all" in basis:
            renamed[basis] = f"{basis}_affine"
        elif name == "gemma-2-2b" and basis.startswith("sae:"):
            renamed[basis] = basis.replace("*", "[01]") if "*" in basis else f"{basis}:layer_[01]/*"
    content["bases"] = list(renamed.values())
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


@pytest.mark.slow
@pytest.mark.parametrize("name", SUITES)
def test_a_suite_runs_with_a_limit(name: str, hub: HubReplica, tmp_path: Path) -> None:
    """One cell per basis; every record holds the commits that its weights came from."""
    path = on_main_branches(name, tmp_path)
    suite, pinned = load_suite(path), load_suite(name).revisions
    few = {"tasks": ["sva_rc"], "methods": ["ixg", "random"], "attribution_pairs": 8, "evaluation_pairs": 3}
    options = RunOptions(out=tmp_path / "out", allow_poor_fit=True)
    outcome = run_request(Request(str(path), few, options, 1, progress=False, limit=len(suite.bases)))
    outcome.raise_failures()
    found = {record.cell.basis: record for record in map(read_record, outcome.records)}
    assert set(found) == set(suite.bases)
    (layers,) = (model.layers for model in MODELS.values() if model.repository in pinned)
    for basis, record in found.items():
        repositories = {repository for repository in pinned if repository in record.sources}
        assert repositories == set(record.sources)
        assert len(record.sources) == (2 if ":" in basis else 1)
        for repository, commit in record.sources.items():
            assert commit == hub.snapshot(repository).name
        assert record.environment.dtype == suite.dtype
        assert record.cell.layers is None, "every basis covers every layer"
        assert record.counts.layers == layers
        if ":" in basis:  # fitted to other prompts than the task's, so that it need not explain anything here
            assert record.guard is not None
            assert len(record.guard.fvu) == layers
            assert 0 < median(record.guard.fvu) < 1.5, (basis, record.guard.fvu)


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
def test_a_repository_is_a_model_and_a_basis_that_is_missing_fails_alone(
    hub: HubReplica, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Revisions that the cache lacks: the dictionary's fails its own cells, the model's all of them."""
    repository = next(model.repository for model in MODELS.values() if "gpt2" in model.repository)
    options = ["--task", "sva_simple", "--method", "relp", "--examples", "4", "--jobs", "1", "--allow-poor-fit"]
    bases = ["--basis", "resid", "--basis", "sae:gpt2-small-res-jb", "--basis", f"sae:gpt2-small-res-jb@{'a' * 40}"]
    out = tmp_path / "out"
    assert main(["run", "--model", repository, *bases, *options, "--out", str(out)]) == 2
    captured = capsys.readouterr()
    assert "cells: 4 finished, 3 failed" in captured.out, "each dictionary under three error policies"
    assert captured.err.count("failed: ") == 1
    assert f"sae:gpt2-small-res-jb@{'a' * 40}" in captured.err
    records = [read_record(path) for path in (out / "records").glob("*.json")]
    assert {record.cell.model for record in records} == {"gpt2-small"}, "a repository with a name goes by it"

    assert main(["run", "--model", f"{repository}@v9", "--basis", "resid", *options, "--out", str(out)]) == 2
    assert f"revision 'v9' of {repository} is not in the cache" in capsys.readouterr().err
    commit = hub.snapshot(repository).name
    assert main(["run", "--model", f"{repository}@{commit}", "--basis", "resid", *options, "--out", str(out)]) == 0
    assert "cells: 1 finished" in capsys.readouterr().out
