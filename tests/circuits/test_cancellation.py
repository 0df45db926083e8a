"""A circuit that hits its target by cancellation: plain faithfulness passes it, halves of the rest do not."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from random import Random

import numpy as np
import pytest

import basisbench as bb
from basisbench.models.load import load_model
from basisbench.registry import load_registry
from basisbench.results.compare import compare_table, render_text
from basisbench.results.frame import summarise
from basisbench.results.halves import HELD, halves_columns
from basisbench.results.record import CellConfig, Record
from basisbench.runs.session import Session, open_session
from basisbench.types import ModelSpec
from basisbench_baselines.known import ANSWER_FEATURES, ANSWER_UNITS, KIND_FEATURES, KIND_UNITS
from basisbench_baselines.known.circuit import FEATURES, Circuit, bias, direction, save_circuit
from basisbench_baselines.known.lexicon import read_lexicon
from basisbench_baselines.known.neurons import Neuron, answer_neurons, answers_and_others, kind_neurons, layer_of

pytestmark = pytest.mark.slow

PAIRS, DRAWS, SIZE, BLOCKS = 32, 20, 8, 24
PUSH = 0.4
"""What a neuron adds to an answer's feature, which is 1, and another one takes away; there are two of each."""


def pushed_both_ways(folder: Path) -> None:
    """Write `known-neurons` with four more neurons per kind: two for its answer, and two as much against it."""
    lexicon, rng = read_lexicon(), Random(0)
    rest = iter(sorted({*range(4, 28)} - {*ANSWER_UNITS}))
    pushes: dict[int, Neuron] = {
        next(rest): (2 * direction(kind) + bias(-1), sign * PUSH * direction(answer))
        for kind, answer in zip(KIND_FEATURES, ANSWER_FEATURES, strict=True)
        for sign in (1, 1, -1, -1)
    }
    mlps = (
        layer_of(kind_neurons(lexicon, KIND_UNITS), rng, lexicon, reads_features=False),
        layer_of({}, rng, lexicon, reads_features=True),
        layer_of(answer_neurons(ANSWER_UNITS) | pushes, rng, lexicon, reads_features=True),
    )
    save_circuit(Circuit(lexicon, mlps, answers_and_others(lexicon, rng), {1: FEATURES}), folder / "model")


@cache
def pairs_on(name: str) -> Session:
    registry = load_registry()
    spec = registry.get("model", name) if name == "known-neurons" else ModelSpec(name, "", "", build=pushed_both_ways)
    task = registry.get("task", "known_kind")
    return open_session(load_model(spec), task, attribution_pairs=PAIRS, evaluation_pairs=PAIRS, seed=0)


@cache
def record_of(name: str) -> Record:
    """Return the cell of MLP activations under RelP, with halves of what the eight best nodes leave out."""
    registry, session = load_registry(), pairs_on(name)
    task, basis = registry.get("task", "known_kind"), registry.get("basis", "mlp_act")
    cell = CellConfig(
        model=name, task=task.name, task_version=task.version, basis="mlp_act", family="mlp", method="relp",
        attribution_pairs=PAIRS, evaluation_pairs=PAIRS, subset_sizes=(2, SIZE), subset_draws=DRAWS,
        subset_blocks=BLOCKS,
    )  # fmt: skip
    return session.run(cell, basis, registry.get("method", "relp"))


@pytest.mark.parametrize("name", ["known-neurons", "pushed-both-ways"])
def test_plain_faithfulness_passes_both(name: str) -> None:
    row = summarise([record_of(name)]).iloc[0]
    assert row["nodes_to_80"] == SIZE
    curve = record_of(name).curve
    at = np.mean(curve.circuit[curve.sizes.index(SIZE)])
    assert (at - row["empty_mean"]) / (row["full_mean"] - row["empty_mean"]) == pytest.approx(1, abs=1e-3)


def test_halves_leave_a_circuit_alone_that_holds_what_matters_and_move_one_that_does_not() -> None:
    true, planted = (summarise([record_of(name)]).iloc[0] for name in ("known-neurons", "pushed-both-ways"))
    for row in (true, planted):
        assert (row["halves_size"], row["halves_draws"]) == (SIZE, DRAWS)
    assert true["halves_worst"] == pytest.approx(1, abs=1e-3)
    assert true["halves_median"] == pytest.approx(1, abs=1e-3)
    assert abs(planted["halves_worst"] - 1) > HELD
    best = [node for node in record_of("pushed-both-ways").top_nodes if node.layer == 2][:4]
    assert {node.unit for node in best} <= {*ANSWER_UNITS}


def test_the_adversary_moves_it_further_than_random_halves_do_and_the_true_one_not_at_all() -> None:
    """Of the two neurons that push an answer and the two that take as much away it takes two alone: .8, both ways."""
    true, planted = (summarise([record_of(name)]).iloc[0] for name in ("known-neurons", "pushed-both-ways"))
    for end in ("halves_lowest", "halves_highest"):
        assert true[end] == pytest.approx(1, abs=1e-3)
    assert abs(planted["halves_worst"] - 1) < 0.75 * 2 * PUSH
    assert planted["halves_lowest"] == pytest.approx(1 - 2 * PUSH, abs=0.05)
    assert planted["halves_highest"] == pytest.approx(1 + 2 * PUSH, abs=0.05)


def test_python_gives_the_halves_of_the_record() -> None:
    row = summarise([record_of("pushed-both-ways")]).iloc[0]
    pairs = pairs_on("pushed-both-ways")
    found = bb.halves(bb.score(pairs, "mlp_act", "relp"), pairs, SIZE, draws=DRAWS, blocks=BLOCKS)
    assert (found.size, len(found.random)) == (SIZE, DRAWS)
    assert found.circuit == pytest.approx(1, abs=1e-3)
    assert max(found.random, key=lambda value: abs(value - 1)) == pytest.approx(row["halves_worst"], abs=1e-4)
    assert found.lowest == pytest.approx(row["halves_lowest"], abs=1e-4)
    assert found.highest == pytest.approx(row["halves_highest"], abs=1e-4)
    assert found.worst in (found.lowest, found.highest)
    quick = bb.halves(bb.score(pairs, "mlp_act", "relp"), pairs, SIZE, draws=2, blocks=0)
    assert (len(quick.random), quick.lowest, quick.highest) == (2, None, None)
    assert quick.worst in quick.random


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"k": 0}, "k: expected a whole number of nodes, at least 1, found 0"),
        ({"blocks": 1}, "blocks: expected 0, or 2 and more, found 1"),
        ({"draws": 0}, "draws: expected a whole number, at least 1, found 0"),
    ],
)
def test_halves_that_cannot_be_are_refused(change: dict[str, int], expected: str) -> None:
    pairs = pairs_on("known-neurons")
    scores = bb.score(pairs, "mlp_act", "magnitude")
    with pytest.raises(bb.BasisBenchError, match=re.escape(expected)):
        bb.halves(scores, pairs, **{"k": 5, **change})
    with pytest.raises(bb.BasisBenchError, match=r"^scores of other weights or pairs: model differs"):
        bb.halves(scores, pairs_on("pushed-both-ways"), 5)


def test_the_comparison_says_so() -> None:
    for name, said in (("known-neurons", False), ("pushed-both-ways", True)):
        text = render_text(summarise([record_of(name)]))
        assert "Random halves of what circuits leave out, ablated, under relp" in text
        assert ("hangs on what is left out" in text) == said
        assert "held but by adversarial halves" not in text
    record = record_of("pushed-both-ways")
    full = sum(record.endpoints.full) / PAIRS
    held = tuple(check.model_copy(update={"draws": (full,) * DRAWS}) for check in record.subset_checks)
    assert "held but by adversarial halves" in render_text(
        summarise([record.model_copy(update={"subset_checks": held})])
    )


def test_faithfulness_of_halves_by_hand() -> None:
    record = record_of("pushed-both-ways")
    full, empty = (sum(values) / len(values) for values in (record.endpoints.full, record.endpoints.empty))
    check = {each.size: [(draw - empty) / (full - empty) for draw in each.draws] for each in record.subset_checks}
    for reached, size in ((1, 2), (2, 2), (3, SIZE), (SIZE, SIZE), (np.inf, SIZE)):
        found = halves_columns(record, reached)
        assert found["halves_size"] == size
        assert found["halves_worst"] == pytest.approx(max(check[size], key=lambda value: abs(value - 1)))
        ordered = sorted(check[size])
        assert found["halves_median"] == pytest.approx((ordered[9] + ordered[10]) / 2)
    without = record.model_copy(update={"subset_checks": ()})
    assert halves_columns(without, 8)["halves_draws"] == 0
    assert np.isnan(halves_columns(without, 8)["halves_worst"])
    assert "Random halves" not in render_text(summarise([without]))
    assert compare_table(summarise([without]))["halves_size"].isna().all()
