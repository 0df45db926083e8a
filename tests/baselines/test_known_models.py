"""Models that were built: their truth is what their weights do, and the benchmark finds it."""

from __future__ import annotations

import pytest
import torch

import basisbench as bb
from basisbench.models.made import made
from basisbench.registry import built_in
from helpers.known_circuits import MODELS, TASK, pairs_on, true_scores, truth_of

BASES = [
    pytest.param(model, truth.basis, id=f"{model} {truth.basis}")
    for model in MODELS
    for truth in built_in().get("model", model).truth
]
"""Every model and basis of which the truth is known."""

GRADIENTS = ("relp", "gim", "ixg", "ig", "ig_inputs")


def faithfulness(model: str, basis: str, k: int) -> tuple[float, float]:
    """Return faithfulness and completeness of the circuit of exactly the true nodes."""
    pairs = pairs_on(model)
    scores = true_scores(bb.score(pairs, basis, "magnitude"), truth_of(model, basis))
    found = scores.circuit(k).evaluate(pairs)
    return found.faithfulness, found.completeness


@pytest.mark.parametrize("model", MODELS)
def test_models_always_give_the_answer(model: str) -> None:
    for group in pairs_on(model).groups:
        for context in (group.attribution, group.evaluation):
            assert bool((context.clean_metric() > 4).all())


@pytest.mark.parametrize("model", MODELS)
def test_models_are_made_once_and_alike(model: str) -> None:
    spec = built_in().get("model", model)
    one, two = made(spec), made(spec)
    assert one.path == two.path
    assert not spec.path
    assert set(one.dictionaries) >= {truth.basis for truth in spec.truth} - {"mlp_act"}


@pytest.mark.parametrize(("model", "basis"), BASES)
def test_the_true_nodes_are_enough_and_nothing_is_left_without_them(model: str, basis: str) -> None:
    found, left = faithfulness(model, basis, len(truth_of(model, basis).nodes))
    assert found == pytest.approx(1, abs=1e-3)
    assert left == pytest.approx(0, abs=1e-3)


@pytest.mark.slow
def test_exact_patching_finds_the_known_neurons() -> None:
    found = bb.agreement_with_truth(bb.score(pairs_on("known-neurons"), "mlp_act", "patching"))
    assert (found.auroc, found.precision, found.true_nodes) == (1, 1, 8)


@pytest.mark.parametrize("method", GRADIENTS)
def test_gradients_find_the_known_neurons(method: str) -> None:
    found = bb.agreement_with_truth(bb.score(pairs_on("known-neurons"), "mlp_act", method))
    assert (found.auroc, found.precision) == (1, 1)


def test_loud_neurons_do_not_bear_on_the_answer() -> None:
    """Neurons that say what the answer is, louder than those that compute it, make the largest change of all."""
    found = bb.agreement_with_truth(bb.score(pairs_on("known-neurons"), "mlp_act", "magnitude"))
    assert found.precision == 0
    assert found.auroc < 0.95


def test_scores_of_chance_find_nothing() -> None:
    pairs = pairs_on("known-neurons")
    scores = bb.score(pairs, "mlp_act", "random")
    nothing = true_scores(scores, truth_of("known-neurons", "mlp_act"))
    for values in nothing.groups.values():
        for part in values.units:
            part.zero_()
    found = bb.agreement_with_truth(nothing)
    assert found.auroc == 0.5
    assert found.precision == pytest.approx(8 / 960)
    assert 0.3 < bb.agreement_with_truth(scores).auroc < 0.7


def test_a_transcoder_whose_units_are_the_neurons_scores_as_they_do() -> None:
    pairs = pairs_on("known-neurons")
    neurons, transcoder = (bb.score(pairs, basis, "relp") for basis in ("mlp_act", "transcoder"))
    for key, values in neurons.groups.items():
        for one, other in zip(values.units, transcoder.groups[key].units, strict=True):
            torch.testing.assert_close(one, other, atol=2e-5, rtol=2e-5)


def test_what_is_not_known_is_told_in_one_line() -> None:
    scores = bb.score(pairs_on("known-neurons"), "mlp_out", "relp")
    with pytest.raises(bb.BasisBenchError, match="does not say which nodes of basis 'mlp_out'"):
        bb.agreement_with_truth(scores)
    truth = truth_of("known-neurons", "mlp_act")
    with pytest.raises(bb.BasisBenchError, match=r"no node of layer 0, role 'thing', unit 5"):
        bb.agreement_with_truth(bb.score(pairs_on("known-neurons"), "mlp_act", "relp", layers=[1, 2]), truth)


def test_the_command_prints_the_agreement(capsys: pytest.CaptureFixture[str]) -> None:
    from basisbench.cli import main

    question = ["--model", "known-neurons", "--task", TASK, "--basis", "mlp_act", "--basis", "mlp_out"]
    assert main(["nodes", "--truth", *question, "--method", "ixg", "--examples", "16"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["known-neurons", TASK, "mlp_act", "ixg", "1.000", "1.00", "8", "960"] in rows
    assert ["known_kind", "mlp_out", "ixg", "-", "-", "-", "-"] in rows
    assert main(["nodes", "--truth", *question, "--csv", "-"]) == 2
    assert "writes no file" in capsys.readouterr().err
