"""Edges of a circuit from Python and from the command line, on the pocket model."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

import basisbench as bb
from basisbench.cli import main
from basisbench.explore.edge_circuits import Edges
from basisbench.results.edge_file import EdgeList
from basisbench.runs.session import Session

pytestmark = pytest.mark.slow
NODES = 12


@pytest.fixture(scope="module")
def pairs() -> Session:
    """A few pairs on the pocket model, in several aligned groups."""
    return bb.load_pairs("sva_rc", bb.load_model("pocket-llama"), attribution=24, evaluation=24)


@pytest.fixture(scope="module")
def found(pairs: Session) -> Edges:
    """Edges between a few features and coordinates of the error."""
    return bb.edges(bb.score(pairs, "sae_mlp_out", "relp").circuit(NODES), pairs)


def test_the_list_names_the_best_edges_and_survives_its_file(found: Edges) -> None:
    listed = found.best(25)
    assert EdgeList.model_validate_json(listed.model_dump_json()) == listed
    assert len(listed.groups) > 1
    for group in listed.groups:
        scores = found.groups[group.group]
        assert group.possible == int(scores.possible.sum())
        assert len(group.nodes) == NODES
        sizes = [abs(edge.score) for edge in group.edges]
        assert sizes == sorted(sizes, reverse=True)
        assert sizes[0] == pytest.approx(float(scores.score.abs().max()), rel=1e-4)
        ends = {"logits": len(group.nodes)}
        for edge in group.edges:
            kind, _, place = edge.source.partition(":")
            row = int(place) + (len(group.roles) if kind == "node" else 0)
            column = ends.get(edge.target) or int(edge.target.partition(":")[2])
            assert edge.score == pytest.approx(float(scores.score[row, column]), rel=1e-4)
            if edge.target == "logits":
                assert edge.weight == edge.score
            elif kind == "node":
                before, after = group.nodes[int(place)], group.nodes[column]
                assert before.layer < after.layer
                assert (before.position or 0) <= (after.position or 0)


def test_a_circuit_of_all_edges_is_worth_what_its_nodes_are(pairs: Session, found: Edges) -> None:
    curve, nodes = found.curve(pairs, at=[5]), found.circuit.evaluate(pairs)
    assert curve.sizes[:3] == (0, 1, 5)
    assert curve.faithfulness[-1].value == pytest.approx(nodes.faithfulness, abs=1e-5)
    assert curve.completeness[0].value == pytest.approx(nodes.faithfulness, abs=1e-5)
    assert curve.completeness[-1].value == pytest.approx(curve.faithfulness[0].value, abs=1e-5)
    assert curve.faithfulness[2].low <= curve.faithfulness[2].value <= curve.faithfulness[2].high
    assert math.isinf(curve.edges_to(90).value) or curve.edges_to(90).value in curve.sizes


def test_what_does_not_fit_is_refused(pairs: Session, found: Edges) -> None:
    circuit = found.circuit
    other = bb.load_pairs("ioi", pairs.model, attribution=4, evaluation=4)
    with pytest.raises(bb.BasisBenchError, match="circuit of task sva_rc"):
        bb.edges(circuit, other)
    with pytest.raises(bb.BasisBenchError, match="no edge method named 'eap'"):
        bb.edges(circuit, pairs, "eap")
    with pytest.raises(bb.BasisBenchError, match="error policy 'node'"):
        bb.edges(bb.score(pairs, "sae_mlp_out", "relp", error_policy="node").circuit(3), pairs)
    with pytest.raises(bb.BasisBenchError, match="circuit: expected a Circuit"):
        bb.edges(pairs, pairs)  # type: ignore[arg-type]
    with pytest.raises(bb.BasisBenchError, match="at least 1"):
        found.best(0)


def test_the_command_prints_edges_and_writes_their_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["edges", "sva_simple", "--basis", "mlp_act", "--examples", "8", "--nodes", "5", "-k", "4"]
    assert main([*words, "--json", str(tmp_path / "edges.json"), "--curve"]) == 0
    out = capsys.readouterr().out
    listed = EdgeList.model_validate_json((tmp_path / "edges.json").read_bytes())
    assert listed.k == 4
    for group in listed.groups:
        assert f"group {group.group}: 5 nodes, {group.possible} edges" in out
        assert f"{group.edges[0].score:8.3f}  " in out
    assert " -> logits" in out
    assert "edges to 80%" in out
    assert main([*words, "--method", "relpp"]) == 2
    assert main([*words, "--json", str(tmp_path / "nowhere" / "edges.json")]) == 2
    errors = capsys.readouterr().err
    assert "no edge method named 'relpp'; did you mean relp?" in errors
    assert "there is no folder" in errors
