"""What holds of any dictionary, whoever made it: bad features gain nothing, nor does good bookkeeping."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

import basisbench as bb
from basisbench.errors import BasisError
from basisbench.explore.steps import Circuit, NodeScores
from basisbench.models.load import load_model
from basisbench.protocols import BasisSpec
from basisbench.registry import load_registry
from basisbench.results.gates import CHEAP_ERRORS, unfit
from basisbench.results.record import CellConfig, Record
from basisbench.runs.session import Session, open_session
from basisbench.types import ErrorPolicy, PairSet
from basisbench_baselines.bases.calibrated import calibrated
from basisbench_baselines.pocket import PROVIDES
from helpers.planted_dictionaries import halved, misplaced, neurons_times, one_unit, random_dictionary, shuffled

PAIRS = 24
SIZES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000)
"""Far enough for 0.8 of the neurons."""
POLICIES: tuple[ErrorPolicy, ...] = ("coordinates", "rotated", "node", "keep", "ablate")

pytestmark = pytest.mark.slow


@cache
def pairs(*, allow_poor_fit: bool = False) -> Session:
    task = load_registry().get("task", "sva_rc")
    model = load_model(PROVIDES[0])
    return open_session(
        model, task, attribution_pairs=PAIRS, evaluation_pairs=PAIRS, seed=0, allow_poor_fit=allow_poor_fit
    )


def one_group() -> Session:
    """Return one aligned group alone: a circuit has as many nodes in every group."""
    everything = pairs()
    key = everything.groups[0].evaluation.pairs.group
    attribution, evaluation = (
        PairSet(tuple(each for each in split if each.group == key))
        for split in (everything.attribution, everything.evaluation)
    )
    return replace(everything, attribution=attribution, evaluation=evaluation, groups=everything.groups[:1])


def scores(basis: str | BasisSpec, policy: ErrorPolicy = "coordinates") -> NodeScores:
    return bb.score(pairs(), basis, "relp", error_policy=policy)


def scored(found: NodeScores, share: float = 0.0) -> int:
    """Return the fewest nodes of a group whose |score| is above a share of the largest; beyond 0, ties are random."""
    counts = []
    for group in found.groups.values():
        sizes = torch.cat([part.abs().flatten() for part in (*group.units, *(group.errors or ()))])
        counts.append(int((sizes > share * sizes.max()).sum()))
    return min(counts)


def record(
    spec: BasisSpec | str, policy: ErrorPolicy = "coordinates", session: Session | None = None, *, curve: bool = True
) -> Record:
    registry, at = load_registry(), session or pairs()
    built = registry.get("basis", spec) if isinstance(spec, str) else spec
    cell = CellConfig(
        model=at.model.name,
        task=at.attribution[0].task,
        task_version=at.attribution[0].version,
        basis=built.name,
        family=built.family,
        method="relp",
        error_policy=policy,
        attribution_pairs=PAIRS,
        evaluation_pairs=PAIRS,
    )
    return at.run(cell, built, registry.get("method", "relp"), at=SIZES if curve else ())


@cache
def recorded(name: str) -> Record:
    return record(name)


def same_curves(one: BasisSpec, rounding: float = 0.0) -> None:
    """Hold that a dictionary is the write site's neurons, value for value, up to the number of scored nodes.

    Args:
        one: the dictionary.
        rounding: share of the largest score below which the order of nodes is that of rounding.
    """
    found, neurons = scores(one), scores("mlp_out")
    most = min(scored(found, rounding), scored(neurons, rounding))
    assert most > 1000
    for size in (1, 5, 50, 500, most):
        a, b = found.circuit(size).evaluate(pairs(), basis=one), neurons.circuit(size).evaluate(pairs())
        tolerance = {"rtol": 0, "atol": 1e-5 * float(np.abs(b.full).max())}
        for values in ("full", "empty", "circuit", "complement"):
            np.testing.assert_allclose(getattr(a, values), getattr(b, values), **tolerance, err_msg=f"{size} {values}")


def test_a_dictionary_that_explains_nothing_is_the_neurons_of_its_site() -> None:
    same_curves(one_unit())


def nodes_to_80(found: Record, chosen: np.ndarray) -> float:
    """Return the smallest size of the steps 1-2-5 that reaches 0.8 on some of the examples; a slow twin."""
    full, empty = (np.array(values)[chosen].mean() for values in (found.endpoints.full, found.endpoints.empty))
    for size, row in zip(found.curve.sizes, found.curve.circuit, strict=True):
        step = str(size)[0] in "125" and set(str(size)[1:]) <= {"0"}
        if step and (np.array(row)[chosen].mean() - empty) / (full - empty) >= 0.8:
            return size
    return np.inf


@pytest.mark.parametrize("spec", [random_dictionary(), shuffled(), one_unit()], ids=lambda spec: spec.name)
def test_dictionaries_without_meaning_never_beat_the_neurons(spec: BasisSpec) -> None:
    theirs, neurons = record(spec), recorded("mlp_out")
    assert theirs.control
    draws = np.random.default_rng(0).integers(0, PAIRS, (200, PAIRS))
    ours = np.array([nodes_to_80(neurons, draw) for draw in draws])
    found = np.array([nodes_to_80(theirs, draw) for draw in draws])
    assert np.isfinite(np.median(ours))
    # Beaten would be: fewer nodes in 97.5% of the resamples of the examples.
    assert (found < ours).mean() < 0.975
    assert nodes_to_80(theirs, np.arange(PAIRS)) >= np.quantile(ours, 0.025)


def test_a_permuted_decoder_gains_nothing() -> None:
    everyone = np.arange(PAIRS)
    permuted = nodes_to_80(record(shuffled()), everyone)
    assert permuted >= nodes_to_80(recorded("sae_mlp_out"), everyone)


@pytest.mark.parametrize("factor", [1.4, 0.6])
def test_neurons_written_too_strongly_or_too_weakly_get_no_mark(factor: float) -> None:
    """Under any policy; what is written too weakly is paid for under `node` and `keep` alone."""
    spec = neurons_times(factor)
    for policy in POLICIES:
        weak = factor < 1 and policy not in ("node", "keep")
        found = record(spec, policy, curve=weak)
        assert found.guard is not None
        assert found.guard.slope == pytest.approx([1 / factor] * 4, rel=1e-4)
        assert all((factor - 1) ** 2 - 1e-3 < fvu < 1 for fvu in found.guard.fvu)  # the mean is written wrong as well
        cheap = CHEAP_ERRORS.get(policy)
        assert unfit(found) == (cheap or f"calibration slope {1 / factor:.2f} in a layer")
        if weak:
            assert nodes_to_80(found, np.arange(PAIRS)) >= nodes_to_80(recorded("mlp_out"), np.arange(PAIRS)), policy


@pytest.mark.parametrize("factor", [1.4, 0.6])
def test_calibrated_they_are_the_neurons(factor: float) -> None:
    spec = calibrated(neurons_times(factor))
    assert spec.control
    fit = pairs().fit(spec, pairs().basis(spec).basis)
    assert fit is not None
    assert fit.slope == pytest.approx([1] * 4, abs=1e-5)
    assert max(fit.fvu) < 1e-9
    assert fit.loss_recovered == pytest.approx(1, abs=1e-4)
    same_curves(spec, rounding=1e-5)  # slopes have six digits, and errors are what these leave over


@pytest.mark.parametrize("name", ["sae_mlp_out", "transcoder", "clt"])
def test_a_calibrated_dictionary_has_slope_one(name: str) -> None:
    spec = load_registry().get("basis", f"calibrated:{name}")
    plain, fit = (pairs().fit(each, pairs().basis(each).basis) for each in (load_registry().get("basis", name), spec))
    assert plain is not None
    assert fit is not None
    assert fit.slope == pytest.approx([1] * 4, abs=2e-5)
    assert max(abs(slope - 1) for slope in plain.slope) > 1e-3
    assert record(spec, curve=False).control


def test_a_unit_cut_in_half_costs_a_node_and_changes_nothing_else() -> None:
    session, size = one_group(), 30
    original = bb.score(session, "sae_mlp_out", "relp", error_policy="node")
    whole = original.circuit(size)
    chosen = next(node for node in whole.nodes if isinstance(node.unit, int))
    assert isinstance(chosen.unit, int)
    spec = halved(chosen.layer, chosen.unit)
    found = bb.score(session, spec, "relp", error_policy="node")
    both = [node for node in whole.nodes if (node.layer, node.unit) == (chosen.layer, chosen.unit)]
    last = found.groups[chosen.group].units[chosen.layer].shape[-1] - 1
    twins = [node.model_copy(update={"unit": last}) for node in both]
    cut = Circuit(
        schema_version=1,
        cell=found.cell,
        identities=found.identities,
        k=size + len(twins),
        nodes=(*whole.nodes, *twins),
    )
    before, after = whole.evaluate(session), cut.evaluate(session, basis=spec)
    for values in ("full", "empty", "circuit", "complement"):
        np.testing.assert_allclose(getattr(after, values), getattr(before, values), rtol=0, atol=1e-4, err_msg=values)
    # Each half has half the score, and the best circuits of the halved basis pay for both.
    layer = found.groups[chosen.group].units[chosen.layer]
    assert float(layer[chosen.position, last]) == pytest.approx(chosen.score / 2, rel=1e-3)
    assert float(layer[chosen.position, chosen.unit]) == pytest.approx(chosen.score / 2, rel=1e-3)
    total = sum(part.numel() for part in found.groups[chosen.group].units)
    assert total == sum(part.numel() for part in original.groups[chosen.group].units) + layer.shape[0]


def test_a_dictionary_in_the_wrong_layer_is_refused_and_told_where_it_fits() -> None:
    with pytest.raises(BasisError) as caught:
        record(misplaced("transcoder", layer=1, taken_from=2))
    message = str(caught.value)
    assert "basis 'misplaced' explains nothing at blocks.1.hook_mlp_out on the prompts of 'sva_rc': FVU " in message
    assert "in layer 1, where the mean activation alone has 1; it fits layer 2 (FVU 0.0" in message
    assert "is it in the wrong layer?" in message
    assert "--allow-poor-fit" in message
    assert "\n" not in message


def test_one_that_explains_a_little_there_is_warned_of_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    told = r"'misplaced sae' fits the prompts of 'sva_rc' badly: FVU 0\.\d+ in layer 2; it fits layer 1 \(FVU 0\.0"
    record(misplaced("sae_mlp_out", layer=2, taken_from=1, name="misplaced sae"), curve=False)
    (line,) = [line for line in caplog.messages if "badly" in line]
    assert re.search(told, line)
    assert "\n" not in line


def test_it_runs_where_it_is_allowed_and_gets_no_mark(caplog: pytest.LogCaptureFixture) -> None:
    session = pairs(allow_poor_fit=True)
    found = record(misplaced("transcoder", layer=1, taken_from=2), session=session, curve=False)
    assert re.search(r"'misplaced' fits the prompts of 'sva_rc' badly: FVU [\d.]+ in layer 1; it", caplog.text)
    assert found.guard is not None
    assert found.guard.fvu[1] >= 1 > found.guard.fvu[0]
    assert not found.control
    assert unfit(found).startswith("FVU ")
