"""Scores of a file as a method: the same circuits as of whoever made them, and a clear line for what does not fit."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import basisbench as bb
from basisbench.cli import main
from basisbench.errors import BasisBenchError
from basisbench.protocols import MethodScheme
from basisbench.registry import load_registry
from basisbench.results.record import CellConfig
from basisbench.runs.session import Session

PAIRS = 8


@cache
def session(task: str = "sva_simple", pairs: int = PAIRS) -> Session:
    return bb.load_pairs(task, bb.load_model("pocket-llama"), attribution=pairs, evaluation=pairs)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scores of RelP on neurons and on an SAE, as files of a folder."""
    folder = tmp_path_factory.mktemp("scores")
    for basis in ("mlp_act", "sae_mlp_out"):
        bb.score(session(), basis, "relp").save(folder / f"{basis}.safetensors")
    return folder


@pytest.fixture
def folder(written: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the scores, where commands run."""
    monkeypatch.chdir(written)
    return written


def cell(method: str, basis: str = "mlp_act", **setting: Any) -> CellConfig:
    return CellConfig(
        model="pocket-llama", task="sva_simple", task_version="1", basis=basis, family="mlp", method=method,
        attribution_pairs=PAIRS, evaluation_pairs=PAIRS, **setting,
    )  # fmt: skip


def run(method: str, basis: str = "mlp_act", on: Session | None = None, **setting: Any) -> Any:
    registry = load_registry()
    asked = cell(method, basis, **setting)
    return (on or session()).run(asked, registry.get("basis", basis), registry.get("method", method))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("basis", "setting"),
    [
        ("mlp_act", {}),
        ("mlp_act", {"ablation": "counterfactual"}),  # anybody's ranking under another ablation
        ("sae_mlp_out", {}),
        ("mlp_act", {"granularity": "unit"}),
    ],
)
def test_curves_are_those_of_the_method_that_made_the_scores(folder: Path, basis: str, setting: dict[str, Any]) -> None:
    own = run(f"scores:{basis}.safetensors", basis, **setting)
    if setting.get("ablation"):
        setting = {**setting, "score_reference": "ablation"}
        pairs = session()
        circuit = bb.NodeScores.load(folder / "mlp_act.safetensors").circuit(20)
        evaluation = circuit.evaluate(pairs, ablation="counterfactual")
        at = own.curve.circuit[own.curve.sizes.index(20)]
        assert sum(at) / len(at) == pytest.approx(float(evaluation.circuit.mean()), rel=1e-4)
        return
    made = run("relp", basis, **setting)
    assert own.curve == made.curve
    assert own.top_nodes == made.top_nodes
    assert own.cost.forward_equivalents < made.cost.forward_equivalents


def test_the_scores_are_those_of_the_file(folder: Path) -> None:
    found = bb.score(session(), "mlp_act", "scores:mlp_act.safetensors")
    made = bb.NodeScores.load(folder / "mlp_act.safetensors")
    assert found.groups.keys() == made.groups.keys()
    for key, scores in made.groups.items():
        for one, other in zip(found.groups[key].units, scores.units, strict=True):
            assert torch.equal(one, other)


def rewritten(folder: Path, change: Callable[[dict[str, torch.Tensor]], None], name: str = "other") -> str:
    """Write the scores of neurons with something changed; returns the method of that file."""
    with safe_open(folder / "mlp_act.safetensors", "pt") as file:
        about, tensors = file.metadata(), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    change(tensors)
    save_file({key: value.contiguous() for key, value in tensors.items()}, folder / f"{name}.safetensors", about)
    return f"scores:{name}.safetensors"


def test_other_scores_in_a_file_of_that_name_are_another_cell(folder: Path) -> None:
    registry = load_registry()
    spec = registry.get("basis", "mlp_act")
    method = rewritten(folder, dict.copy, "mine")
    first = session().identity(spec, registry.get("method", method))
    assert first.code is not None
    assert first == session().identity(spec, registry.get("method", method))

    def turn(tensors: dict[str, torch.Tensor]) -> None:
        for name in tensors:
            tensors[name] = tensors[name].flip(-1)

    assert rewritten(folder, turn, "mine") == method
    assert session().identity(spec, registry.get("method", method)) != first
    assert first.code["basis"] == session().identity(spec).code["basis"]  # type: ignore[index] # it has code


def cut_units(tensors: dict[str, torch.Tensor]) -> None:
    for name in tensors:
        tensors[name] = tensors[name][:, :-1]


def cut_layer(tensors: dict[str, torch.Tensor]) -> None:
    for name in [name for name in tensors if "layer 3" in name]:
        del tensors[name]


def add_nan(tensors: dict[str, torch.Tensor]) -> None:
    tensors[min(tensors)][0, 0] = float("nan")


def drop_one(tensors: dict[str, torch.Tensor]) -> None:
    del tensors[min(tensors)]


def cut_position(tensors: dict[str, torch.Tensor]) -> None:
    tensors[min(tensors)] = tensors[min(tensors)][1:]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (cut_units, "expected"),
        (cut_layer, r"has scores of layers \(0, 1, 2\), the cell of \(0, 1, 2, 3\)"),
        (add_nan, "does not hold finite numbers"),
        (drop_one, "scores of layers"),
        (cut_position, "has the shape .*, with .* positions"),
    ],
)
def test_tensors_that_do_not_fit_are_told_in_one_line(
    folder: Path, change: Callable[[dict[str, torch.Tensor]], None], message: str
) -> None:
    with pytest.raises(BasisBenchError, match=message) as told:
        bb.score(session(), "mlp_act", rewritten(folder, change))
    assert "\n" not in str(told.value)
    assert "other.safetensors" in str(told.value)


@pytest.mark.parametrize(
    ("task", "basis", "setting", "message"),
    [
        ("sva_simple", "mlp_out", {}, "its scores are of basis mlp_act, the cell's is mlp_out"),
        ("sva_rc", "mlp_act", {}, "its scores are of task sva_simple version 1, the cell's is sva_rc version 1"),
        ("sva_simple", "mlp_act", {"layers": [1]}, r"has scores of layers \(0, 1, 2, 3\), the cell of \(1,\)"),
    ],
)
@pytest.mark.usefixtures("folder")
def test_scores_of_something_else_are_refused(task: str, basis: str, setting: dict[str, Any], message: str) -> None:
    with pytest.raises(BasisBenchError, match=message):
        bb.score(session(task), basis, "scores:mlp_act.safetensors", **setting)


def test_another_model_other_groups_and_other_error_nodes_are_refused(folder: Path) -> None:
    made = bb.NodeScores.load(folder / "mlp_act.safetensors")
    identities = made.identities.model_copy(update={"model": "0" * 64})
    bb.NodeScores(made.cell, identities, made.layers, made.roles, made.groups).save(folder / "model.safetensors")
    with pytest.raises(BasisBenchError, match=f"its scores are of weights of the model {'0' * 64}, the cell's is"):
        bb.score(session(), "mlp_act", "scores:model.safetensors")
    with pytest.raises(BasisBenchError, match=r"has no scores of the aligned group '.*'; it has '"):
        bb.score(session(pairs=16), "mlp_act", "scores:mlp_act.safetensors")
    with pytest.raises(BasisBenchError, match="error nodes under the policy coordinates, the cell is under rotated"):
        bb.score(session(), "sae_mlp_out", "scores:sae_mlp_out.safetensors", error_policy="rotated")


def test_what_is_no_file_of_scores_is_told_before_anything_is_run(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "text.safetensors").write_text("scores", encoding="utf-8")
    for file, said in (("none.safetensors", "cannot be read: No such file"), ("text.safetensors", "holds no scores")):
        assert main(["run", "--task", "sva_simple", "--basis", "mlp_act", "--method", f"scores:{file}"]) == 2
        told = capsys.readouterr().err
        assert said in told
        assert told.count("\n") == 1


def test_the_scheme_is_listed_with_methods(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "methods"]) == 0
    assert "scores:FILE" in capsys.readouterr().out
    (scheme,) = (entry.item for entry in load_registry().of("scheme") if isinstance(entry.item, MethodScheme))
    assert scheme in [entry.item for entry in load_registry().listing("method")]
    assert scheme not in [entry.item for entry in load_registry().listing("basis")]
    with pytest.raises(BasisBenchError, match="no method named 'score:x'"):
        load_registry().get("method", "score:x")
