"""AUROC, precision and Kendall's tau against slow, obvious twins, ties included."""

from __future__ import annotations

import math
from itertools import combinations, pairwise, permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from basisbench.results.agreement import auroc, kendall_tau, precision_at

nodes = st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=2, max_size=6).filter(
    lambda rows: 0 < sum(true for _, true in rows) < len(rows)
)
"""Scores of few values, so that many tie, and which nodes are true."""


def arrays(rows: list[tuple[int, bool]]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([float(score) for score, _ in rows]), np.array([true for _, true in rows])


@given(nodes)
def test_auroc_is_the_share_of_pairs_in_order(rows: list[tuple[int, bool]]) -> None:
    wins = [
        1.0 if mine > other else 0.5 if mine == other else 0.0
        for mine, true in rows
        if true
        for other, also in rows
        if not also
    ]
    assert auroc(*arrays(rows)) == pytest.approx(sum(wins) / len(wins), abs=1e-12)


@given(nodes, st.data())
def test_precision_is_the_mean_over_all_orders_of_ties(rows: list[tuple[int, bool]], data: st.DataObject) -> None:
    k = data.draw(st.integers(1, len(rows)))
    orders = [
        [rows[place][1] for place in order]
        for order in permutations(range(len(rows)))
        if all(rows[one][0] >= rows[other][0] for one, other in pairwise(order))
    ]
    assert precision_at(*arrays(rows), k) == pytest.approx(np.mean([sum(order[:k]) / k for order in orders]), abs=1e-12)


def test_closed_forms() -> None:
    true = np.array([True, True, False, False, False])
    assert auroc(np.array([5.0, 4, 3, 2, 1]), true) == 1
    assert auroc(np.array([1.0, 2, 3, 4, 5]), true) == 0
    assert auroc(np.zeros(5), true) == 0.5
    assert precision_at(np.zeros(5), true, 2) == pytest.approx(0.4)
    assert math.isnan(auroc(np.zeros(2), np.array([True, True])))


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ([1, 2, 3, 4, 5], [1, 2, 3, 4, 5], 1),
        ([1, 2, 3, 4, 5], [5, 4, 3, 2, 1], -1),
        ([1, 2, 3, 4, 5], [3, 1, 2, 5, 4], 0.4),  # 7 pairs of 10 in the same order, 3 in the other
        ([1, 2, 2, 3], [1, 3, 2, 4], 5 / math.sqrt(5 * 6)),  # one pair ties in a, five agree
        ([1, 2, 2, 3], [1, 3, 3, 2], (3 - 2) / 5),  # the same pair ties in both
        ([1, math.inf, math.inf], [2, math.inf, 5], 2 / math.sqrt(2 * 3)),  # what is not reached ties
        ([1, 2], [7, 3], -1),
        ([2, 2, 2], [1, 2, 3], math.nan),
    ],
)
def test_kendall_s_tau_of_small_cases_worked_by_hand(a: list[float], b: list[float], expected: float) -> None:
    left, right = (np.array(values, dtype=float) for values in (a, b))
    assert float(kendall_tau(left, right)) == pytest.approx(expected, nan_ok=True)
    assert float(kendall_tau(right, left)) == pytest.approx(expected, nan_ok=True)


@given(
    st.integers(2, 7).flatmap(
        lambda size: st.lists(
            st.tuples(*[st.lists(st.integers(0, 3), min_size=size, max_size=size)] * 2), min_size=1, max_size=4
        )
    )
)
def test_kendall_s_tau_is_that_of_counted_pairs(rows: list[tuple[list[int], list[int]]]) -> None:
    found = kendall_tau(*(np.array([row[side] for row in rows], dtype=float) for side in (0, 1)))
    for value, (a, b) in zip(found, rows, strict=True):
        pairs = list(combinations(range(len(a)), 2))
        agree = sum((a[i] - a[j]) * (b[i] - b[j]) > 0 for i, j in pairs)
        differ = sum((a[i] - a[j]) * (b[i] - b[j]) < 0 for i, j in pairs)
        in_a, in_b = (sum(side[i] != side[j] for i, j in pairs) for side in (a, b))
        expected = (agree - differ) / math.sqrt(in_a * in_b) if in_a and in_b else math.nan
        assert value == pytest.approx(expected, nan_ok=True)
