"""Plug-ins written from the pages in docs/ keep the contract and run from end to end beside built-in ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from basisbench.checks.check import check
from basisbench.models.load import load_model
from basisbench.results.record import read_record
from basisbench.runs.run import Request, run_request
from basisbench.runs.runner import RunOptions
from basisbench.types import ModelSpec
from helpers.plugins import FILES, plugin
from helpers.tiny_models import build_tiny_tokenizer, save_checkpoint, tiny_llama_config

pytestmark = pytest.mark.slow

PLUGINS = (
    ("method", "smooth_grad"),
    ("method", "zero_baseline"),
    ("method", "gim_gated"),
    ("basis", "pca"),
    ("basis", "pca_8"),
    ("task", "greater_than"),
)


@pytest.fixture(scope="module")
def counting_llama(tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    """A random two-layer Llama whose tokenizer knows the greater-than task's years too."""
    tokenizer = build_tiny_tokenizer(plugin("task", "greater_than"))
    folder = save_checkpoint(
        tiny_llama_config(tokenizer), tokenizer, tmp_path_factory.mktemp("counting") / "llama", seed=3
    )
    return ModelSpec(name="counting-llama", path=str(folder), summary="random Llama that knows years")


@pytest.mark.parametrize(("kind", "name"), PLUGINS)
def test_check_finds_nothing(kind: str, name: str, counting_llama: ModelSpec) -> None:
    found = check(plugin(kind, name), load_model(counting_llama, dtype="float32"))
    assert [str(each) for each in found if not each.holds] == []
    assert len(found) > 5


def test_they_run_beside_built_in_ones_and_are_kept(
    counting_llama: ModelSpec, plugin_with: Callable[[ModelSpec], Path], tmp_path: Path
) -> None:
    names: dict[str, Any] = {
        "tasks": ["greater_than"],
        "bases": ["mlp_out", "pca", "pca_8"],
        "methods": ["ixg", "smooth_grad", "zero_baseline", "gim_gated"],
    }
    changes = {"models": [counting_llama.name], "attribution_pairs": 16, "evaluation_pairs": 16, **names}
    settings = RunOptions(out=tmp_path / "out", plugins=(*FILES, plugin_with(counting_llama)))
    for expected in ("finished", "kept"):
        outcome = run_request(Request("pocket", changes, settings, progress=False))
        assert [(event.state, event.message) for event in outcome.events] == [(expected, "")] * 12
    records = {(record.cell.basis, record.cell.method): record for record in map(read_record, outcome.records)}

    passes = {key: record.cost.forward_equivalents for key, record in records.items()}
    shared = 2 * 16  # the clean and the counterfactual run of each pair
    assert passes["mlp_out", "zero_baseline"] == passes["mlp_out", "ixg"] == shared + 3 * 16
    assert passes["mlp_out", "gim_gated"] == shared + 3 * 16
    assert passes["mlp_out", "smooth_grad"] == shared + 4 * 3 * 16

    weights = {
        basis: {record.identities.dictionary for (name, _), record in records.items() if name == basis}
        for basis in names["bases"]
    }
    assert weights["mlp_out"] == {None}
    assert all(len(weights[name]) == 1 and None not in weights[name] for name in ("pca", "pca_8"))
    # All components span the same space: the same effect of everything, differently spread over units.
    for method in names["methods"]:
        assert records["pca", method].endpoints.empty == pytest.approx(
            records["mlp_out", method].endpoints.empty, rel=1e-3
        )
        assert records["pca", method].guard is None
        assert records["pca_8", method].guard is not None
