"""Bisection: where a curve first reaches a threshold is known to 5% or one node, with few sizes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from basisbench.results.bisection import faithfulness_of, next_sizes
from basisbench.results.metrics import sizes_grid


def bisected(curve: Callable[[int], float], total: int) -> dict[int, float]:
    """Measure a curve as a run does."""
    measured = {size: curve(size) for size in sizes_grid(total)}
    while more := next_sizes(measured, total):
        assert not measured.keys() & set(more)
        measured |= {size: curve(size) for size in more}
    return measured


def smallest(measured: Mapping[int, float], threshold: float) -> int | None:
    return min((size for size, value in measured.items() if value >= threshold), default=None)


@given(total=st.integers(1, 10**6), share=st.floats(0, 1.2), power=st.floats(0.2, 5))
def test_a_rising_curve_is_known_to_five_percent_or_one_node(total: int, share: float, power: float) -> None:
    middle = max(1.0, share * total)

    def curve(size: int) -> float:
        return float(min(1.2, (size / middle) ** power))

    measured = bisected(curve, total)
    grid = sizes_grid(total)
    assert set(grid) <= set(measured)
    assert len(measured) - len(grid) <= 10
    for threshold in (0.8, 0.9):
        found = smallest(measured, threshold)
        truth = next((size for size in range(math.floor(middle * threshold ** (1 / power)) - 1, total + 1)
                      if size >= 0 and curve(size) >= threshold), None)  # fmt: skip
        if truth is None:
            assert found is None
        else:
            assert found is not None
            assert found >= truth
            assert found == truth or found <= 1.05 * truth + 1


@given(st.data())
def test_any_curve_needs_few_sizes(data: st.DataObject) -> None:
    """However it jumps: the size before the one that reaches the threshold does not, and is a neighbour."""
    total = data.draw(st.integers(1, 10**5))
    measured = bisected(lambda _size: data.draw(st.sampled_from([-1.0, 0.5, 0.8, 0.85, 0.9, 2.0])), total)
    assert len(measured) - len(sizes_grid(total)) <= 20
    sizes = sorted(measured)
    for threshold in (0.8, 0.9):
        found = smallest(measured, threshold)
        if found:
            before = sizes[sizes.index(found) - 1]
            assert found - before <= 1 or found <= 1.05 * before


def test_faithfulness_is_a_share_of_the_gap() -> None:
    assert faithfulness_of([2.0, 4.0], [5.0, 5.0], [1.0, 1.0]) == 0.5
    assert faithfulness_of([2.0, 4.0], [1.0, 1.0], [1.0, 1.0]) == -math.inf
    assert faithfulness_of([0.1] * 10, [1.0] * 10, [0.0] * 10) == pytest.approx(0.1, abs=1e-16)
    assert faithfulness_of([2.0, 4.0], [1.0, 1.0], [5.0, 5.0]) == 0.5
    assert next_sizes({0: -math.inf, 1: -math.inf, 2: -math.inf}, 2) == ()


def test_a_crossing_beyond_the_scored_nodes_is_not_looked_for() -> None:
    values = {0: 0.0, 1: 0.1, 2: 0.2, 5: 0.3, 10: 0.85, 20: 0.86, 50: 1.0}
    assert next_sizes(values, 50) == (7, 32)
    assert next_sizes(values, 9) == ()
    assert next_sizes({**values, 7: 0.82, 6: 0.7}, 49) == (), "0.8 is known, and 0.9 is beyond"
    assert next_sizes({**values, 7: 0.82, 6: 0.7}, 50) == (32,)
