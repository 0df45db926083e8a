"""Steering from Python and from the command line, on the pocket model."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch
from torch import Tensor

import basisbench as bb
from basisbench.cli import main
from basisbench.results.steering import Steering
from basisbench.runs.session import Session

pytestmark = pytest.mark.slow
QUICK = {"draws": 2, "others": (), "baselines": ()}


@pytest.fixture(scope="module")
def pairs() -> Session:
    """A few pairs on the pocket model, in several aligned groups."""
    return bb.load_pairs("sva_rc", bb.load_model("pocket-llama"), attribution=24, evaluation=24)


def test_one_neuron_takes_the_difference_away_and_a_plain_hook_says_so_too(pairs: Session) -> None:
    """Scaled by -3, the best neuron of the pocket model takes more than three quarters of the difference away."""
    found = bb.steer(pairs, "mlp_act", 1, "scale", [-3, 0, 1], others=["sva_simple"], prompts=["The knights"])
    node = found.nodes[0]
    assert node.name == "3:clause_verb:74"
    projection = pairs.model.body.model.layers[3].mlp.down_proj
    for dose in found.doses:

        def scale(_: object, inputs: tuple[Tensor], factor: float = dose.dose) -> tuple[Tensor]:
            moved = inputs[0].clone()
            moved[:, -1, 74] *= factor
            return (moved,)

        handle = projection.register_forward_pre_hook(scale)
        metric = []
        with torch.no_grad():
            for group in pairs.groups:
                batch = group.evaluation.batch
                metric.append(batch.metric(pairs.model.body(input_ids=batch.clean).logits[:, -1]))
        handle.remove()
        assert dose.chosen.metric == pytest.approx(float(torch.cat(metric).mean()), abs=2e-3)
    by_dose = {dose.dose: dose for dose in found.doses}
    assert found.full.metric > 9
    assert by_dose[-3].chosen.metric < found.full.metric / 4
    assert by_dose[1].chosen == found.full.model_copy(update={"kl": by_dose[1].chosen.kl})
    assert by_dose[1].chosen.kl == pytest.approx(0, abs=1e-6)
    assert by_dose[1].controls == (found.full.metric,) * 39
    assert -3.0 in {dose.dose for dose in found.doses if found.outside(dose)}
    assert "these nodes cause it" in found.claim
    assert set(by_dose[-3].baselines) == {"random", "magnitude"}
    assert by_dose[-3].text_kl is not None
    assert by_dose[-3].text_kl > by_dose[0].text_kl > by_dose[1].text_kl >= 0  # type: ignore[operator]
    told = found.prompts[0].next
    assert [row.dose for row in told] == [None, *by_dose]
    assert told[0].tokens == told[3].tokens  # of dose 1
    assert told[1].kl > 0


def test_ablated_features_give_what_their_circuit_s_complement_gives(pairs: Session) -> None:
    """Nodes at their reference, all else live, are the complement of a circuit (`Circuit.evaluate`)."""
    scores = bb.score(pairs, "sae_mlp_out", "relp")
    found = bb.steer(pairs, "sae_mlp_out", bb.describe_nodes(pairs, scores, 3).nodes, "ablate", [0, 1], **QUICK)  # type: ignore[arg-type]
    keys = {(node.layer, node.role, node.unit) for node in found.nodes}
    groups = [
        [node for node in scores.circuit(200).nodes if node.group == key and (node.layer, node.role, node.unit) in keys]
        for key in scores.groups
    ]
    assert {len(nodes) for nodes in groups} == {3}
    circuit = scores.circuit(3).model_copy(update={"nodes": tuple(node for nodes in groups for node in nodes)})
    assert found.doses[1].chosen.metric == pytest.approx(float(circuit.evaluate(pairs).complement.mean()), abs=1e-3)
    assert found.cell.method == "named"
    assert found.doses[0].text_kl is None


@pytest.mark.parametrize(("asked", "expected"), [
    ({"nodes": []}, "no node to steer"),
    ({"nodes": 0}, "expected a whole number from 1"),
    ({"nodes": [7]}, "nodes: expected a number or names LAYER:ROLE:UNIT, found 7"),
    ({"operation": "scal"}, "no operation named 'scal'; did you mean scale?"),
    ({"operation": "add"}, "doses: 'add' needs them"),
    ({"doses": [float("nan")]}, "doses: expected 1 to 50 finite numbers"),
    ({"doses": []}, "doses: expected 1 to 50 finite numbers"),
    ({"draws": 0}, "draws: expected a whole number from 1 to 1000"),
    ({"draws": 600}, "other nodes at layer 3, role clause_verb, are too few for 600 draws"),
    ({"at": "first"}, "no place to steer at named 'first'"),
    ({"text": "nowhere.txt"}, "text nowhere.txt: cannot be read"),
    ({"prompts": [""]}, "prompt '': the tokenizer makes no tokens of it"),
    ({"prompts": ["The knight " * 200]}, "tokens, but the model has"),
    ({"others": ["sva"]}, "no task named 'sva'"),
    ({"error_policy": "node"}, "under the error policy 'node' what a basis leaves out is no live nodes"),
])  # fmt: skip
def test_a_mistake_is_told_in_one_line(pairs: Session, asked: dict[str, object], expected: str) -> None:
    question = {"basis": "mlp_act", "nodes": ["3:clause_verb:74"], **QUICK, **asked}
    with pytest.raises(bb.BasisBenchError) as caught:
        bb.steer(pairs, **question)  # type: ignore[arg-type]
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_command_prints_tables_and_writes_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["steer", "sva_simple", "--basis", "clt", "--examples", "8", "--draws", "3", "--other", "sva_rc"]
    nodes = ["--node", "0:subject:7", "--node", "1:subject:error 5", "--operation", "add", "--doses", "-2", "0", "4"]
    (tmp_path / "prompts.txt").write_text("The knights\n\nThe knight\n", encoding="utf-8")
    (tmp_path / "text.txt").write_text("The knights respect the engineer. " * 40, encoding="utf-8")
    files = ["--prompts", str(tmp_path / "prompts.txt"), "--text", str(tmp_path / "text.txt"), "--at", "last"]
    assert main([*words, *nodes, *files, "--out", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    found = Steering.model_validate_json((tmp_path / "out/steering.json").read_bytes())
    assert [dose.dose for dose in found.doses] == [-2, 0, 4]
    assert [node.name for node in found.nodes] == ["0:subject:7", "1:subject:error 5"]
    assert found.text == "text.txt"
    for part in (found.claim, "next token of 'The knights'", "text: text.txt", "1:subject:error 5"):
        assert part in out
    rows = list(csv.DictReader((tmp_path / "out/steering.csv").open(encoding="utf-8")))
    assert len(rows) == 3 * (1 + 3 + 2 + 1 + 1 + 3)
    assert (tmp_path / "out/steering.png").stat().st_size > 5000
    assert main([*words, "--node", "0:subject"]) == 2
    assert main([*words, "--prompts", str(tmp_path / "no.txt")]) == 2
    assert main([*words, "--out", str(tmp_path / "text.txt")]) == 2
    errors = capsys.readouterr().err
    assert errors.count("\n") == 3
    for part in (
        "node '0:subject': expected LAYER:ROLE:UNIT",
        "no.txt: cannot be read",
        "is a file; expected a folder",
    ):
        assert part in errors
