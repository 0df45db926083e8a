"""A whole cell: the record holds what the slow evaluator finds; scores, ties, sizes, counts and fit included."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from basisbench.models.model import Model
from basisbench.results.record_fields import SuiteTasks
from basisbench.runs.session import open_session
from basisbench.types import ContrastPair, Pairs, PairSet, Split
from helpers import oracle
from helpers.oracle import Node

pytestmark = pytest.mark.usefixtures("double_precision")


@dataclass(frozen=True)
class StubTask:
    """A task whose pairs are random token ids, which `random_splits` gives."""

    name: str = "stub"
    version: str = "1"
    summary: str = "random token ids"

    def candidates(self, split: Split, seed: int) -> Iterator[ContrastPair]:  # noqa: ARG002 -- the protocol's
        raise AssertionError("its pairs are no text")


NOUNS = (4, 2, 4, 9, 2, 7, 4, 9, 1, 0, 7, 4, 3)


def random_splits(*_arguments: object, **_options: object) -> tuple[PairSet, PairSet]:
    """Return two groups in each split, as `load_splits` would."""

    def groups(split: Split, sizes: tuple[int, int], start: int) -> PairSet:
        long, short = (
            oracle.random_pairs(size, length, start + index, split=split, group=group)
            for index, (size, length, group) in enumerate(zip(sizes, (5, 4), ("long", "short"), strict=True))
        )
        levels = [[f"{split} noun {number}" for number in numbers] for numbers in (NOUNS[: len(long)], NOUNS[5:])]
        return PairSet(
            (
                replace(long, clusters={"noun": tuple(levels[0]), "template": ("long",) * len(long)}),
                replace(short, clusters={"noun": tuple(levels[1][: len(short)]), "template": ("short",) * len(short)}),
            ),
            {"a reason": 3},
        )

    return groups("attribution", (9, 8), 100), groups("evaluation", (8, 8), 200)


def _naive_sizes(nodes: int) -> list[int]:
    sizes, step = [0], 1
    while step < nodes:
        sizes += [size for size in (step, 2 * step, 5 * step) if size < nodes]
        step *= 10
    return [*sizes, nodes]


def _five_digits(values: Any) -> Any:
    """A record stores five significant digits."""
    return pytest.approx(values, rel=5.1e-5, abs=1e-9)


CELLS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("transcoder", {}),
    ("mlp_act", {"granularity": "unit"}),
    ("sae_mlp_out", {"ablation": "zero", "error_policy": "rotated"}),
    ("sae_resid", {"ablation": "counterfactual", "granularity": "unit"}),
    ("transcoder", {"error_policy": "node", "score_reference": "counterfactual"}),
    ("sae_attn_out", {"error_policy": "coordinates", "score_split": "evaluation"}),
    ("sae_mlp_out", {"error_policy": "ablate", "score_split": "evaluation", "granularity": "unit"}),
    ("transcoder", {"error_policy": "keep", "ablation": "zero"}),
    ("attn_z", {"ablation": "zero", "score_split": "evaluation"}),
)


# The slow evaluator takes a few seconds a cell: one is enough for the quick tests.
@oracle.on_architectures(("name", "setting"), whole=CELLS[:1], part=())
def test_a_record_holds_what_the_slow_evaluator_finds(
    architecture: str, name: str, setting: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    check_cell(architecture, name, setting, monkeypatch)


# Each setting on one architecture: what these differ in ends before settings begin.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("architecture", "name", "setting"),
    [(oracle.ARCHITECTURES[place % 2], *cell) for place, cell in enumerate(CELLS[1:])],
)
def test_so_it_does_under_other_conditions(
    architecture: str, name: str, setting: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    check_cell(architecture, name, setting, monkeypatch)


def check_cell(architecture: str, name: str, setting: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Hold that every value of a record is the slow evaluator's."""
    model: Model = oracle.model(architecture)
    slow, twin = oracle.naive(architecture), oracle.naive_basis(architecture, name)
    monkeypatch.setattr("basisbench.runs.session.load_splits", random_splits)
    session = open_session(model, StubTask(), attribution_pairs=17, evaluation_pairs=16, seed=0)
    cell = oracle.cell(name, method="ixg", attribution_pairs=17, evaluation_pairs=16, **setting)
    suite = SuiteTasks(name="mine", tasks=("stub", "other"))
    spec = replace(oracle.basis_spec(name), control=twin.has_error)
    record = session.run(cell, spec, oracle.gradient_method("ixg"), suite=suite)
    assert record.suite == suite
    assert record.control == twin.has_error

    groups = [(pair.attribution.pairs, pair.evaluation.pairs) for pair in session.groups]
    assert [len(first) + len(second) for first, second in groups] == [17, 16]
    asked = oracle.Question(cell.ablation, cell.score_reference, cell.error_policy)
    scores = []
    for first, second in groups:
        scored = second if cell.score_split == "evaluation" else first
        found = oracle.naive_scores("ixg", slow, twin, scored, asked, means=first)
        # What the explicit loops of a mean leave of equal values is no score.
        scores.append({node: round(value, 12) for node, value in found.as_mapping(twin, cell.error_policy).items()})
    weights = [len(second if cell.score_split == "evaluation" else first) for first, second in groups]
    pooled = cell.granularity == "unit"
    ranked = [_pooled(scores, weights)] * len(groups) if pooled else scores
    orders = [_order(score, groups[0 if pooled else place][0].group) for place, score in enumerate(ranked)]
    scored_nodes = [sum(value != 0 for value in score.values()) for score in ranked]
    assert [group.scored_nodes for group in record.groups] == scored_nodes

    largest = max(len(order) for order in orders)
    limits = [limit for limit, order in zip(scored_nodes, orders, strict=True) if limit < len(order)]
    sizes, grid = list(record.curve.sizes), {*_naive_sizes(largest), min(limits, default=largest)}
    assert grid <= set(sizes)
    rows: list[list[list[float]]] = [[], []]
    for (first, second), order in zip(groups, orders, strict=True):
        circuits = [set(order[:size]) for size in sizes] + [set(order[size:]) for size in sizes]
        if pooled:
            circuits = [_everywhere(circuit, second.length) for circuit in circuits]
        circuits = [oracle.with_free_errors(circuit, cell.error_policy, second.length) for circuit in circuits]
        values = oracle.naive_circuits(slow, twin, first, second, cell.ablation, circuits)
        rows[0].append(values[: len(sizes)].T.tolist())
        rows[1].append(values[len(sizes) :].T.tolist())
    full = [
        float(slow.metric(second, index, slow.logits(second.clean[index])))
        for _, second in groups
        for index in range(len(second))
    ]
    outputs = _empty_at_output(slow, twin, groups, cell.ablation)
    at_nodes = _all_at_reference(slow, twin, groups, cell.ablation)
    empty = at_nodes if cell.ablation == "zero" else outputs
    circuit, complement = (np.concatenate([np.asarray(part) for part in parts]).T for parts in rows)
    assert np.asarray(record.curve.circuit) == _five_digits(circuit)
    for size, found_row, expected_row in zip(sizes, record.curve.complement, complement, strict=True):
        assert (found_row is None) == (size not in grid), "complements are measured on the grid alone"
        if found_row is not None:
            assert np.asarray(found_row) == _five_digits(expected_row)
    assert list(record.endpoints.full) == _five_digits(full)
    assert list(record.endpoints.empty) == _five_digits(empty)
    assert record.endpoints.empty_at == ("nodes" if cell.ablation == "zero" else "output")
    if cell.ablation == "zero":
        assert list(record.endpoints.gate_empty or ()) == _five_digits(outputs)
    else:
        assert record.endpoints.gate_empty is None
    assert record.endpoints.family_empty is None
    assert record.endpoints.accuracy == _five_digits(sum(value > 0 for value in full) / len(full))
    _check_bisection(
        circuit.mean(1), float(np.mean(full)), float(np.mean(empty)), sizes, grid, min(limits, default=largest)
    )
    _check_counts(record, groups, orders, sizes)
    _check_top_nodes(record, ranked, orders, cell.granularity)
    _check_clusters(record, groups)
    assert (record.guard is None) == (not twin.has_error)
    if record.guard is not None:
        _check_guard(record.guard, slow, twin, [first for first, _ in groups])


def _order(scores: Mapping[Any, float], group: str) -> list[Any]:
    """Return nodes by |score|, those of equal |score| in the random order of the group."""
    digest = hashlib.sha256(repr((0, "stub", group, "ties")).encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    nodes = list(scores)
    return oracle.ranked(scores, [nodes[place] for place in torch.randperm(len(nodes), generator=generator).tolist()])


def _empty_at_output(
    slow: oracle.Naive, twin: oracle.NaiveBasis, groups: list[tuple[Pairs, Pairs]], ablation: str
) -> list[float]:
    """Return F(0) of each evaluation pair, the outputs of the basis' family at their reference in every layer."""
    (family,) = {oracle.FAMILY[name] for name in oracle.BASES if oracle.naive_basis(slow.architecture, name) is twin}
    kind, values = oracle.FAMILY_OUTPUT[family], []
    places = {str(layer): slow.where(kind, layer) for layer in range(oracle.LAYERS)}
    for first, second in groups:
        for index in range(len(second)):
            prompts = [second.counterfactual[index]] if ablation == "counterfactual" else first.counterfactual
            seen = [slow.watched(prompt, places) for prompt in prompts]
            scale = 0.0 if ablation == "zero" else 1 / len(seen)
            means = {key: scale * sum((one[key] for one in seen[1:]), seen[0][key]) for key in places}
            edits = {place: lambda _, value=means[key]: value.unsqueeze(0) for key, place in places.items()}
            values.append(float(slow.metric(second, index, slow.logits(second.clean[index], edits))))
    return values


def _all_at_reference(
    slow: oracle.Naive, twin: oracle.NaiveBasis, groups: list[tuple[Pairs, Pairs]], ablation: str
) -> list[float]:
    """Return the metric of each evaluation pair with every node and every error at its reference."""
    empty = [oracle.naive_circuits(slow, twin, first, second, ablation, [set()])[0] for first, second in groups]
    return [float(value) for row in empty for value in row]


def _check_bisection(values: Any, full: float, empty: float, sizes: list[int], grid: set[int], scored: int) -> None:
    added = set(sizes) - grid
    assert len(added) <= 20
    assert all(size <= scored for size in added)
    for threshold in (0.8, 0.9):
        reached = [
            size for size, value in zip(sizes, values, strict=True) if (value - empty) / (full - empty) >= threshold
        ]
        if reached and 0 < reached[0] <= scored:
            before = sizes[sizes.index(reached[0]) - 1]
            assert reached[0] - before == 1 or reached[0] <= 1.05 * before


def _pooled(scores: list[dict[Node, float]], weights: Sequence[int]) -> dict[tuple[int, int | str], float]:
    pooled: dict[tuple[int, int | str], float] = {}
    for score, weight in zip(scores, weights, strict=True):
        for (layer, _, unit), value in score.items():
            pooled[layer, unit] = pooled.get((layer, unit), 0.0) + value * weight / sum(weights)
    return pooled


def _everywhere(circuit: set[Any], length: int) -> set[Node]:
    return {(layer, position, unit) for layer, unit in circuit for position in range(length)}


def _check_counts(record: Any, groups: Any, orders: list[list[Any]], sizes: list[int]) -> None:
    weights = [len(second) for _, second in groups]

    def mean(count: Any) -> list[float]:
        return [
            sum(weight * count(order[:size]) for order, weight in zip(orders, weights, strict=True)) / sum(weights)
            for size in sizes
        ]

    def is_error(node: Any) -> bool:
        return isinstance(node[-1], str)

    assert list(record.curve.error_nodes) == _five_digits(mean(lambda part: sum(map(is_error, part))))
    assert list(record.curve.feature_nodes) == _five_digits(mean(lambda part: sum(not is_error(node) for node in part)))
    units = mean(lambda part: len({(node[0], node[-1]) for node in part if not is_error(node)}))
    assert list(record.curve.units) == _five_digits(units)
    everywhere = [
        {(node[0], node[-1]) for order in orders for node in order[:size] if not is_error(node)} for size in sizes
    ]
    assert list(record.curve.all_units or ()) == [len(units) for units in everywhere]
    widest = {"mlp": max(oracle.D_MLP, oracle.D_MODEL), "attn": oracle.D_MODEL, "resid": oracle.D_MODEL}
    places = oracle.LAYERS * (1 if record.cell.granularity == "unit" else 5)
    assert record.counts.area_end == widest[record.cell.family] * places
    assert [group.nodes for group in record.groups] == [len(order) for order in orders]
    assert [group.error_nodes for group in record.groups] == [sum(map(is_error, order)) for order in orders]
    assert [(group.key, group.positions) for group in record.groups] == [
        (second.group, second.length) for _, second in groups
    ]
    assert [(group.attribution_pairs, group.evaluation_pairs) for group in record.groups] == [
        (len(first), len(second)) for first, second in groups
    ]


def _check_top_nodes(
    record: Any, scores: Sequence[Mapping[Any, float]], orders: list[list[Any]], granularity: str
) -> None:
    if granularity == "unit":
        expected = [(layer, None, unit, scores[0][layer, unit]) for layer, unit in orders[0][:20]]
    else:
        everything = [(*node, value) for score in scores for node, value in score.items()]
        expected = sorted(everything, key=lambda row: -abs(row[3]))[:20]
    kinds = {"coordinates": "error", "rotated": "rotated error", "node": "error"}

    def name(node: Any) -> int | str:
        assert (node.coordinate is None) == (node.unit != "error" or record.cell.error_policy == "node")
        whole = node.coordinate is None
        return node.unit if whole else f"{kinds[record.cell.error_policy]} {node.coordinate}"

    found = [(node.layer, node.position, name(node), node.score) for node in record.top_nodes]
    assert [row[:3] for row in found] == [row[:3] for row in expected]
    assert [row[3] for row in found] == _five_digits([row[3] for row in expected])


def _check_clusters(record: Any, groups: list[tuple[Pairs, Pairs]]) -> None:
    """Levels are numbered in the order in which the examples have them."""
    for factor in ("noun", "template"):
        seen: list[str] = []
        for _, second in groups:
            for level in second.clusters[factor]:
                if level not in seen:
                    seen.append(level)
        expected = [seen.index(level) for _, second in groups for level in second.clusters[factor]]
        assert list(record.clusters[factor]) == expected
        assert len(seen) > 1
    assert set(record.clusters) == {"noun", "template"}


def _check_guard(guard: Any, slow: oracle.Naive, twin: oracle.NaiveBasis, groups: Sequence[Pairs]) -> None:
    for layer in range(oracle.LAYERS):
        errors: list[Tensor] = []
        outputs: list[Tensor] = []
        active: list[int] = []
        for pairs in groups:
            for prompt in [*pairs.clean, *pairs.counterfactual]:
                values = slow.values(twin, prompt)
                # The first token is the beginning-of-sequence token, which the fit leaves out.
                for position in range(1, len(prompt)):
                    error = values.errors[layer][position]
                    errors.append(error)
                    outputs.append(twin.decode(layer, values.units[layer])[position] + error)
                    active.append(sum(float(value) != 0 for value in values.units[layer][position]))
        mean = sum(outputs[1:], outputs[0]) / len(outputs)
        unexplained = sum(float(error @ error) for error in errors) / sum(
            float((output - mean) @ (output - mean)) for output in outputs
        )
        assert guard.fvu[layer] == _five_digits(unexplained)
        assert guard.l0[layer] == _five_digits(sum(active) / len(active))


def test_the_slow_sizes_are_one_two_five_steps() -> None:
    found: Mapping[int, list[int]] = {nodes: _naive_sizes(nodes) for nodes in (1, 7, 50, 134)}
    assert found == {
        1: [0, 1],
        7: [0, 1, 2, 5, 7],
        50: [0, 1, 2, 5, 10, 20, 50],
        134: [0, 1, 2, 5, 10, 20, 50, 100, 134],
    }
