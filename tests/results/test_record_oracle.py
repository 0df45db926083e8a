"""A whole cell: the record holds what the slow evaluator finds, counts and top nodes and fit included."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from torch import Tensor

from basisbench.models.model import Model
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


def random_splits(*_arguments: object, **_options: object) -> tuple[PairSet, PairSet]:
    """Return two groups in each split, as `load_splits` would."""

    def groups(split: Split, sizes: tuple[int, int], start: int) -> PairSet:
        return PairSet(
            (
                oracle.random_pairs(sizes[0], 5, start, split=split, group="long"),
                oracle.random_pairs(sizes[1], 4, start + 1, split=split, group="short"),
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


@pytest.mark.slow
@pytest.mark.parametrize(("name", "granularity"), [("transcoder", "position"), ("mlp_act", "unit")])
def test_a_record_holds_what_the_slow_evaluator_finds(
    architecture: str, name: str, granularity: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model: Model = oracle.model(architecture)
    slow, twin = oracle.naive(architecture), oracle.naive_basis(architecture, name)
    monkeypatch.setattr("basisbench.runs.session.load_splits", random_splits)
    session = open_session(model, StubTask(), attribution_pairs=17, evaluation_pairs=16, seed=0)
    cell = oracle.cell(
        name, method="ixg", granularity=granularity, attribution_pairs=17, evaluation_pairs=16, ablation="mean"
    )
    record = session.run(cell, oracle.basis_spec(name), oracle.gradient_method("ixg"))

    groups = [(pair.attribution.pairs, pair.evaluation.pairs) for pair in session.groups]
    assert [len(first) + len(second) for first, second in groups] == [17, 16]
    scores = [oracle.spliced_scores(slow, twin, first).as_mapping(twin, errors=twin.has_error) for first, _ in groups]
    orders = _orders(granularity, scores, groups)
    largest = max(len(order) for order in orders)
    sizes = _naive_sizes(largest)
    assert list(record.curve.sizes) == sizes

    rows: list[list[list[float]]] = [[], []]
    for (first, second), order in zip(groups, orders, strict=True):
        circuits = [set(order[:size]) for size in sizes] + [set(order[size:]) for size in sizes]
        if granularity == "unit":
            circuits = [_everywhere(circuit, second.length) for circuit in circuits]
        values = oracle.naive_circuits(slow, twin, first, second, "mean", circuits)
        rows[0].append(values[: len(sizes)].T.tolist())
        rows[1].append(values[len(sizes) :].T.tolist())
    for found, parts in zip((record.curve.circuit, record.curve.complement), rows, strict=True):
        by_size = np.concatenate([np.asarray(part) for part in parts]).T
        assert np.asarray(found) == _five_digits(by_size)
    full = [
        float(slow.metric(second, index, slow.logits(second.clean[index])))
        for _, second in groups
        for index in range(len(second))
    ]
    assert list(record.endpoints.full) == _five_digits(full)
    assert list(record.endpoints.empty) == _five_digits([row[0] for part in rows[0] for row in part])
    assert record.endpoints.empty_at == ("nodes" if record.cell.ablation == "zero" else "output")
    assert record.endpoints.accuracy == _five_digits(sum(value > 0 for value in full) / len(full))
    _check_counts(record, groups, orders, sizes)
    _check_top_nodes(record, groups, scores, orders, granularity)
    assert (record.guard is None) == (not twin.has_error)
    if record.guard is not None:
        _check_guard(record.guard, slow, twin, [first for first, _ in groups])


def _orders(granularity: str, scores: list[dict[Node, float]], groups: list[tuple[Pairs, Pairs]]) -> list[list[Any]]:
    if granularity == "position":
        return [oracle.ranked(score, list(score)) for score in scores]
    pooled = _pooled(scores, groups)
    return [sorted(pooled, key=lambda node: -abs(pooled[node]))] * len(groups)


def _pooled(scores: list[dict[Node, float]], groups: list[tuple[Pairs, Pairs]]) -> dict[tuple[int, int | str], float]:
    total = sum(len(first) for first, _ in groups)
    pooled: dict[tuple[int, int | str], float] = {}
    for score, (first, _) in zip(scores, groups, strict=True):
        for (layer, _, unit), value in score.items():
            pooled[layer, unit] = pooled.get((layer, unit), 0.0) + value * len(first) / total
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
        return bool(node[-1] == "error")

    assert list(record.curve.error_nodes) == _five_digits(mean(lambda part: sum(map(is_error, part))))
    assert list(record.curve.feature_nodes) == _five_digits(mean(lambda part: sum(not is_error(node) for node in part)))
    units = mean(lambda part: len({(node[0], node[-1]) for node in part if not is_error(node)}))
    assert list(record.curve.units) == _five_digits(units)
    assert [group.nodes for group in record.groups] == [len(order) for order in orders]
    assert [group.error_nodes for group in record.groups] == [sum(map(is_error, order)) for order in orders]
    assert [(group.key, group.positions) for group in record.groups] == [
        (second.group, second.length) for _, second in groups
    ]
    assert [(group.attribution_pairs, group.evaluation_pairs) for group in record.groups] == [
        (len(first), len(second)) for first, second in groups
    ]


def _check_top_nodes(
    record: Any, groups: Any, scores: list[dict[Node, float]], orders: list[list[Any]], granularity: str
) -> None:
    if granularity == "unit":
        pooled = _pooled(scores, groups)
        expected = [(layer, None, unit, pooled[layer, unit]) for layer, unit in orders[0][:20]]
    else:
        everything = [(*node, value) for score in scores for node, value in score.items()]
        expected = sorted(everything, key=lambda row: -abs(row[3]))[:20]
    found = [(node.layer, node.position, node.unit, node.score) for node in record.top_nodes]
    assert [row[:3] for row in found] == [row[:3] for row in expected]
    assert [row[3] for row in found] == _five_digits([row[3] for row in expected])


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
