"""Step by step from Python: the same numbers as the records of a run, and files that are read back whole."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import basisbench as bb
from basisbench.registry import load_registry
from basisbench.results.frame import read_results
from basisbench.results.record import Record
from basisbench.runs.layer_subset import restrict
from basisbench.runs.session import Session
from basisbench.types import ErrorPolicy

PAIRS = 16
pytestmark = pytest.mark.slow
CELLS: tuple[tuple[str, ErrorPolicy], ...] = (
    ("mlp_act", "coordinates"),
    ("sae_mlp_out", "coordinates"),
    ("sae_mlp_out", "node"),
    ("sae_mlp_out", "keep"),
    ("transcoder", "ablate"),
    ("transcoder", "rotated"),
    ("clt", "coordinates"),
)


@pytest.fixture(scope="module")
def pairs() -> Session:
    """Pairs of one task on the pocket model."""
    return bb.load_pairs("sva_rc", bb.load_model("pocket-llama"), attribution=PAIRS, evaluation=PAIRS)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results folder of a run of the same cells."""
    out = tmp_path_factory.mktemp("run")
    policies: dict[tuple[ErrorPolicy, ...], list[str]] = {
        ("coordinates",): ["mlp_act", "sae_mlp_out", "clt"],
        ("node", "keep"): ["sae_mlp_out"],
        ("ablate", "rotated"): ["transcoder"],
    }
    for errors, bases in policies.items():
        bb.run(
            tasks=["sva_rc"],
            bases=bases,
            methods=["relp"],
            error_policies=list(errors),
            examples=PAIRS,
            out=out,
            progress=False,
        )
    return out


@pytest.fixture(scope="module")
def records(run: Path) -> dict[tuple[str, str], Record]:
    """The records of that run."""
    return {(record.cell.basis, record.cell.error_policy): record for record in read_results(run)}


@pytest.mark.parametrize(("basis", "errors"), CELLS)
def test_the_values_are_those_of_the_record(
    pairs: Session, records: dict[tuple[str, str], Record], basis: str, errors: ErrorPolicy
) -> None:
    record = records[basis, errors]
    scores = bb.score(pairs, basis, "relp", error_policy=errors)
    assert scores.cell == record.cell
    assert scores.identities == record.identities
    best = sorted(scores.circuit(20).nodes, key=lambda node: -abs(node.score))[:20]
    assert [node.score for node in best] == pytest.approx([node.score for node in record.top_nodes], rel=1e-4)
    share = scores.error_share(pairs)
    assert share == (None if record.error_share is None else pytest.approx(record.error_share, rel=1e-4))
    assert (share is None) == (basis == "mlp_act" or errors in ("keep", "ablate"))
    # A coordinate of the error is told where it is a node of its own.
    for node in scores.circuit(2000).nodes:
        assert (node.coordinate is None) == (node.unit != "error" or errors == "node")
    for place, size in enumerate(record.curve.sizes):
        if size not in (1, 20, 200, record.curve.sizes[-1]):
            continue
        found = scores.circuit(size).evaluate(pairs)
        # Records hold five digits; rounding of a pass depends on what else is in it.
        assert found.circuit == pytest.approx(np.array(record.curve.circuit[place]), rel=1e-4, abs=1e-4)
        assert found.complement == pytest.approx(np.array(record.curve.complement[place]), rel=1e-4, abs=1e-4)
        assert found.full == pytest.approx(np.array(record.endpoints.full), rel=1e-4)
        assert found.empty == pytest.approx(np.array(record.endpoints.empty), rel=1e-4, abs=1e-4)


def test_a_circuit_of_some_layers_is_measured_against_the_gap_of_these_layers(pairs: Session) -> None:
    circuit = bb.score(pairs, "mlp_act", "relp", layers="1-2").circuit(20)
    assert circuit.cell.layers == (1, 2)
    assert {node.layer for node in circuit.nodes} == {1, 2}
    basis = restrict(pairs.basis(load_registry().get("basis", "mlp_act")).basis, [1, 2])
    empty = [value for group in pairs.groups for value in group.empty(basis, "mean").tolist()]
    assert circuit.evaluate(pairs).empty == pytest.approx(empty)


def test_faithfulness_and_completeness_are_those_of_the_frame(pairs: Session, run: Path) -> None:
    frame = bb.load_results(run)
    frame = frame[frame["basis"] == "mlp_act"].set_index("size")
    found = bb.score(pairs, "mlp_act", "relp").circuit(100).evaluate(pairs)
    assert found.faithfulness == pytest.approx(frame.loc[100, "faithfulness"], abs=1e-4)
    assert found.completeness == pytest.approx(frame.loc[100, "completeness"], abs=1e-4)


def test_the_share_of_errors_is_refused_for_other_pairs(pairs: Session) -> None:
    scores = bb.score(pairs, "sae_mlp_out", "relp")
    others = bb.load_pairs("sva_simple", pairs.model, attribution=4, evaluation=4)
    with pytest.raises(bb.BasisBenchError, match=r"^scores of other pairs: give those that they were taken on$"):
        scores.error_share(others)


def test_scores_move_nodes_to_where_they_are_asked_to(pairs: Session) -> None:
    """By default to what the circuit's curve ablates to; to the counterfactual value where the cell says so."""
    asked: tuple[dict[str, Any], ...] = (
        {}, {"ablation": "zero"}, {"ablation": "counterfactual"},
        {"score_reference": "counterfactual"}, {"score_reference": "counterfactual", "ablation": "zero"},
    )  # fmt: skip
    found = [bb.score(pairs, "mlp_act", "ixg", **question) for question in asked]
    units = [torch.cat([part for group in each.groups.values() for part in group.units]) for each in found]
    assert [each.cell.score_reference for each in found] == ["ablation"] * 3 + ["counterfactual"] * 2
    assert torch.equal(units[2], units[3])
    assert torch.equal(units[3], units[4])
    for one, other in itertools.combinations(units[:3], 2):
        assert not torch.allclose(one, other, rtol=1e-3)


@pytest.mark.parametrize(
    ("basis", "errors"), [("mlp_act", "coordinates"), ("sae_mlp_out", "coordinates"), ("sae_mlp_out", "node")]
)
def test_scores_and_circuits_are_read_back_whole(
    pairs: Session, tmp_path: Path, basis: str, errors: ErrorPolicy
) -> None:
    scores = bb.score(pairs, basis, "ixg", error_policy=errors)
    scores.save(tmp_path / "scores.safetensors")
    again = bb.NodeScores.load(tmp_path / "scores.safetensors")
    assert (again.cell, again.identities, again.layers, dict(again.roles)) == (
        scores.cell,
        scores.identities,
        scores.layers,
        dict(scores.roles),
    )
    for key, values in scores.groups.items():
        assert all(map(bool, (a.equal(b) for a, b in zip(values.units, again.groups[key].units, strict=True))))
        other = again.groups[key].errors
        assert (values.errors is None) == (other is None) == (basis == "mlp_act")
        assert all(a.equal(b) for a, b in zip(values.errors or (), other or (), strict=True))
    circuit = again.circuit(30)
    circuit.save(tmp_path / "circuit.json")
    loaded = bb.Circuit.load(tmp_path / "circuit.json")
    assert loaded == circuit == scores.circuit(30)
    one, other = loaded.evaluate(pairs), scores.circuit(30).evaluate(pairs)
    assert np.array_equal(one.circuit, other.circuit)
    assert np.array_equal(one.complement, other.complement)


def test_a_circuit_holds_for_other_pairs_and_other_references(pairs: Session) -> None:
    circuit = bb.score(pairs, "mlp_act", "relp").circuit(50)
    others = bb.load_pairs("sva_rc", pairs.model, attribution=PAIRS, evaluation=PAIRS, seed=1)
    assert not math.isclose(circuit.evaluate(others).faithfulness, circuit.evaluate(pairs).faithfulness)
    assert not np.array_equal(circuit.evaluate(pairs, ablation="zero").circuit, circuit.evaluate(pairs).circuit)


UNTYPED: Any = bb
"""The same, for calls with arguments of the wrong type."""


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (
            lambda pairs: UNTYPED.load_pairs("ioi", pairs.model, attribution=0),
            "attribution: expected a whole number of pairs",
        ),
        (
            lambda pairs: UNTYPED.load_pairs("ioi", pairs.model, evaluation=2.5),
            "evaluation: expected a whole number of",
        ),
        (lambda _: UNTYPED.load_model(None), "name: expected a model's name, repository or folder, found None"),
        (lambda _: UNTYPED.load_pairs("ioi", "pocket-llama"), "model: expected a loaded model"),
        (lambda pairs: UNTYPED.score(pairs.model, "mlp_act", "ixg"), "pairs: expected what load_pairs returns"),
        (lambda pairs: UNTYPED.score(pairs, 3, "ixg"), "basis: expected a name or a BasisSpec, found 3"),
        (lambda pairs: UNTYPED.score(pairs, "mlp_act", dict), "method: expected a name or a method"),
        (lambda pairs: UNTYPED.score(pairs, "mlp_act", "ixg", ablation="median"), "ablation: .* found 'median'"),
        (lambda pairs: UNTYPED.score(pairs, "mlp_act", "ixg").circuit(1.5), "at least 1 node, found 1.5"),
        (
            lambda pairs: UNTYPED.score(pairs, "mlp_act", "ixg").circuit(5).evaluate(pairs, ablation="median"),
            "ablation: .* found 'median'",
        ),
    ],
)
def test_wrong_arguments_are_told_by_name(pairs: Session, call: Callable[[Any], object], told: str) -> None:
    with pytest.raises(bb.BasisBenchError, match=told):
        call(pairs)


def test_damaged_scores_are_refused(pairs: Session, tmp_path: Path) -> None:
    file = tmp_path / "scores.safetensors"
    bb.score(pairs, "sae_mlp_out", "ixg").save(file)
    with safe_open(file, "pt") as opened:
        about = opened.metadata()
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 -- not a mapping
    name = next(each for each in sorted(tensors) if each.endswith("layer 1/units"))
    value = tensors[name]
    for wrong, told in (
        ({}, "is missing"),
        ({name: value * math.nan}, "does not hold finite numbers"),
        ({name: value.int()}, "does not hold finite numbers"),
        ({name: value[1:].clone()}, "has the shape"),
        ({name: value[:, 1:].clone()}, "differ in their numbers of units"),
        ({name: value, "of no group/layer 1/units": value.clone()}, "belongs to no group"),
    ):
        others = {each: tensor for each, tensor in tensors.items() if each != name}
        save_file({**others, **wrong}, file, about)
        with pytest.raises(bb.BasisBenchError, match=told):
            bb.NodeScores.load(file)
    save_file(tensors, file, {**about, "roles": "null"})
    with pytest.raises(bb.BasisBenchError, match="holds no scores"):
        bb.NodeScores.load(file)
    with pytest.raises(bb.BasisBenchError, match="cannot be written"):
        bb.score(pairs, "mlp_act", "ixg").save(tmp_path)


def test_mistakes_end_in_one_line(pairs: Session, tmp_path: Path) -> None:
    scores = bb.score(pairs, "mlp_act", "relp")
    circuit = scores.circuit(5)
    with pytest.raises(bb.BasisBenchError, match="a circuit has at least 1 node, found 0"):
        scores.circuit(0)
    with pytest.raises(bb.BasisBenchError, match="no method named 'repl'; did you mean relp"):
        bb.score(pairs, "mlp_act", "repl")
    other = bb.load_pairs("ioi", pairs.model, attribution=PAIRS, evaluation=PAIRS)
    with pytest.raises(bb.BasisBenchError, match=r"circuit of task sva_rc version 1: .* with ioi version 1"):
        circuit.evaluate(other)
    wrong = circuit.nodes[0].model_copy(update={"unit": 512})
    with pytest.raises(bb.BasisBenchError, match=r"basis 'mlp_act' has no node at layer .*, unit 512 in the group"):
        circuit.model_copy(update={"nodes": (wrong, *circuit.nodes[1:])}).evaluate(pairs)
    with pytest.raises(bb.BasisBenchError, match="unit error in the group"):
        circuit.model_copy(update={"nodes": (wrong.model_copy(update={"unit": "error"}), *circuit.nodes[1:])}).evaluate(
            pairs
        )
    with pytest.raises(bb.BasisBenchError, match=r"expected 5 distinct nodes in the aligned group .*, found 0"):
        circuit.model_copy(update={"nodes": circuit.nodes[:5]}).evaluate(pairs)
    with pytest.raises(bb.BasisBenchError, match="expected 5 distinct nodes"):
        circuit.model_copy(update={"nodes": (circuit.nodes[1], *circuit.nodes[1:])}).evaluate(pairs)
    file = tmp_path / "circuit.json"
    with pytest.raises(bb.BasisBenchError, match=r"circuit\.json: cannot be read"):
        bb.Circuit.load(file)
    file.write_text(circuit.model_dump_json().replace('"k":5', '"k":0'), encoding="utf-8")
    with pytest.raises(bb.BasisBenchError, match=r"circuit\.json: k: "):
        bb.Circuit.load(file)
    with pytest.raises(bb.BasisBenchError, match="holds no scores"):
        bb.NodeScores.load(file)
