"""Models that were built: their truth is what their weights do, and the benchmark finds it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import basisbench as bb
from basisbench.models.made import made
from basisbench.registry import built_in
from basisbench.types import ModelSpec, TrueNodes
from basisbench_baselines.known import KIND_UNITS
from basisbench_baselines.known.neurons import NEURONS
from helpers.known_circuits import MODELS, TASK, pairs_on, true_scores, truth_of

BASES = [
    pytest.param(model, truth.basis, id=f"{model} {truth.basis}")
    for model in MODELS
    for truth in built_in().get("model", model).truth
]
"""Every model and basis of which the truth is known."""

OTHER_STORIES = ("known-skip-shortcut", "known-skip-detour")
"""Models whose dictionary is exact, and tells of another circuit than theirs."""

QUICK, OTHERS = "relp", ("gim", "ixg", "ig", "ig_inputs")
"""Methods that take gradients; quick tests see one."""


def faithfulness(model: str, basis: str, k: int) -> tuple[float, float]:
    """Return faithfulness and completeness of the circuit of exactly the true nodes."""
    pairs = pairs_on(model)
    scores = true_scores(bb.score(pairs, basis, "magnitude"), truth_of(model, basis))
    found = scores.circuit(k).evaluate(pairs)
    return found.faithfulness, found.completeness


@pytest.mark.parametrize("model", [MODELS[0], *(pytest.param(model, marks=pytest.mark.slow) for model in MODELS[1:])])
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


def test_code_that_fails_is_told_in_one_line() -> None:
    def build(folder: Path) -> None:
        raise ValueError(f"no words\nfor {folder.name[:11]}")

    with pytest.raises(bb.BasisBenchError, match="code, which fails: no words for basisbench-"):
        made(ModelSpec("mine", "", "a plug-in's", build=build))


@pytest.mark.parametrize(("model", "basis"), [case for case in BASES if case.values[0] not in OTHER_STORIES])
def test_the_true_nodes_are_enough_and_nothing_is_left_without_them(model: str, basis: str) -> None:
    """Exactly so where features do not overlap; where they do, true ones read an eighth of what others write.

    In a model that was trained the others, at their means, bear a little on the logits too.
    """
    found, left = faithfulness(model, basis, len(truth_of(model, basis).nodes))
    apart, overlap = {"known-directions": (0.15, 0.03), "known-trained": (0.05, 0.05)}.get(model, (1e-3, 2e-4))
    assert found == pytest.approx(1, abs=apart)
    assert left == pytest.approx(0, abs=overlap)


@pytest.mark.slow
def test_exact_patching_finds_the_known_neurons() -> None:
    found = bb.agreement_with_truth(bb.score(pairs_on("known-neurons"), "mlp_act", "patching"))
    assert (found.auroc, found.precision, found.true_nodes) == (1, 1, 8)


@pytest.mark.parametrize("method", [QUICK, *(pytest.param(each, marks=pytest.mark.slow) for each in OTHERS)])
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


@pytest.mark.slow
def test_the_command_prints_the_agreement(capsys: pytest.CaptureFixture[str]) -> None:
    from basisbench.cli import main

    question = ["--model", "known-neurons", "--task", TASK, "--basis", "mlp_act", "--basis", "mlp_out"]
    assert main(["nodes", "--truth", *question, "--method", "ixg", "--examples", "16"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["known-neurons", TASK, "mlp_act", "ixg", "1.000", "1.00", "8", "960"] in rows
    assert ["known_kind", "mlp_out", "ixg", "-", "-", "-", "-"] in rows
    assert main(["nodes", "--truth", *question, "--csv", "-"]) == 2
    assert "writes no file" in capsys.readouterr().err


def best(model: str, basis: str, k: int) -> float:
    """Return the faithfulness of the k best nodes under RelP."""
    pairs = pairs_on(model)
    return bb.score(pairs, basis, "relp").circuit(k).evaluate(pairs).faithfulness


@pytest.mark.slow
def test_true_directions_win_over_neurons() -> None:
    """The benchmark can say that neurons lose: eight directions do what eight times as many neurons do not."""
    model = "known-directions"
    for basis in ("transcoder", "sae_mlp_out"):
        found = bb.agreement_with_truth(bb.score(pairs_on(model), basis, "relp"))
        assert (found.auroc, found.precision) == (1, 1)
        assert best(model, basis, 8) >= 0.8
    for basis in ("mlp_act", "mlp_out"):
        assert best(model, basis, 64) < 0.8


@pytest.mark.slow
def test_neurons_win_where_the_truth_is_in_neurons() -> None:
    """Eight neurons do what twice as many axes of the output, or of a rotation of the 32 neurons, do not."""
    model = "known-neurons"
    assert best(model, "mlp_act", 8) >= 0.8
    for basis in ("mlp_out", "mlp_act_rotated"):
        assert best(model, basis, 16) < 0.8


@pytest.mark.slow
@pytest.mark.parametrize("basis", ["mlp_act", "transcoder", "clt"])
def test_what_skips_layers_is_found(basis: str) -> None:
    """The nodes of layers 0 and 3, and between nodes the four edges that skip the layers in between."""
    pairs, truth = pairs_on("known-skip"), truth_of("known-skip", basis)
    scores = bb.score(pairs, basis, "relp")
    found = bb.agreement_with_truth(scores)
    assert (found.auroc, found.precision) == (1, 1)
    circuit = scores.circuit(32)
    assert any(0 < node.layer < 3 for node in circuit.nodes)
    for group in bb.edges(circuit, pairs, "ixg").best(10_000).groups:
        ends = {f"node:{place}": (node.layer, node.role, node.unit) for place, node in enumerate(group.nodes)}
        between = [(ends[e.source], ends[e.target]) for e in group.edges if e.source in ends and e.target in ends]
        assert set(between[: len(truth.edges)]) == set(truth.edges)


KINDS = tuple((0, "last", unit) for unit in KIND_UNITS)
SHORTCUT, DETOUR = (tuple((layer, "last", NEURONS + kind) for kind in range(4)) for layer in (0, 1))


def circuit_of(model: str, nodes: tuple[tuple[int, str, int], ...]) -> bb.Evaluation:
    """Return what a circuit of exactly these units of the cross-layer transcoder is worth."""
    pairs = pairs_on(model)
    scores = bb.score(pairs, "clt", "magnitude")
    return true_scores(scores, TrueNodes(TASK, "clt", nodes)).circuit(len(nodes)).evaluate(pairs)


@pytest.mark.slow
@pytest.mark.parametrize(("model", "told"), [("known-skip-shortcut", SHORTCUT), ("known-skip-detour", KINDS + DETOUR)])
def test_an_exact_transcoder_may_tell_of_steps_that_are_not_there(
    model: str, told: tuple[tuple[int, str, int], ...]
) -> None:
    """It rebuilds every output, and what it tells is as faithful and complete as the truth, which it is not."""
    pairs = pairs_on(model)
    spec = built_in().get("basis", "clt")
    fit = pairs.fit(spec, pairs.basis(spec).basis)
    assert fit is not None
    assert max(fit.fvu) < 1e-8  # a norm is constant to less than one part in ten thousand
    found = circuit_of(model, told)
    assert found.faithfulness == pytest.approx(1, abs=1e-3)
    assert found.completeness == pytest.approx(0, abs=1e-3)
    agreement = bb.agreement_with_truth(bb.score(pairs, "clt", "relp"))
    assert agreement.precision == 0.5
    assert agreement.auroc < 0.8


@pytest.mark.slow
def test_a_shortcut_is_given_away_by_what_is_left_without_it() -> None:
    """With the units that it passes over ablated too, its error takes away an answer that is gone already."""
    assert circuit_of("known-skip-shortcut", KINDS + SHORTCUT).completeness == pytest.approx(-1, abs=0.1)
    assert circuit_of("known-skip-detour", KINDS + DETOUR).completeness == pytest.approx(0, abs=1e-3)
