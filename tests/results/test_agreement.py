"""AUROC and precision against slow, obvious twins, ties included."""

from __future__ import annotations

import math
from itertools import pairwise, permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from basisbench.results.agreement import auroc, precision_at

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
