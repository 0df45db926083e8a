"""Intervals: the bootstrap against loops, cells that do not arrive, paired differences."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from basisbench.results.bootstrap import (
    DRAWS,
    _weights,
    estimate_rows,
    interval_ends,
    resample_weights,
)
from basisbench.results.metrics import (
    STATISTICS,
    CurveValues,
    Normalised,
    circuit_bits,
    estimate,
    nodes_to,
    normalise,
    not_reached_bound,
    paired_difference,
)
from helpers.synthetic_curves import SIZES, curve_values

# --- the bootstrap ---


def test_vectorised_resamples_equal_a_loop_over_the_same_weights() -> None:
    curve = curve_values(np.array([0, 0.1, 0.3, 0.6, 0.85, 0.95, 1.02, 1]), examples=17)
    cell = normalise(curve)
    weights = resample_weights(17)
    assert cell.faithfulness.shape == (DRAWS + 1, len(SIZES))
    for draw in (1, 2, 500, 1000):
        taken = [example for example in range(17) for _ in range(round(17 * weights[draw, example]))]
        assert len(taken) == 17
        full, empty = curve.full[taken].mean(), curve.empty[taken].mean()
        for column in range(len(SIZES)):
            faithful = (curve.circuit[taken, column].mean() - empty) / (full - empty)
            complete = (curve.complement[taken, column].mean() - empty) / (full - empty)
            assert cell.faithfulness[draw, column] == pytest.approx(faithful, rel=1e-10, abs=1e-12)
            assert cell.completeness[draw, column] == pytest.approx(complete, rel=1e-10, abs=1e-12)


def test_the_first_row_is_the_sample_itself() -> None:
    curve = curve_values(np.linspace(0, 1, 8))
    gap = curve.full.mean() - curve.empty.mean()
    expected = (curve.circuit.mean(axis=0) - curve.empty.mean()) / gap
    np.testing.assert_allclose(normalise(curve).faithfulness[0], expected, rtol=1e-12, atol=1e-14)


def test_means_are_normalised_not_single_examples() -> None:
    # Per-example ratios would be (2 / 1 + 0 / 9) / 2 = 1.0; the means give 2 / 10.
    full, empty = np.array([1.0, 9.0]), np.zeros(2)
    circuit = np.array([[0.0, 2.0], [0.0, 0.0]])
    cell = normalise(CurveValues((0, 1), 1, full, empty, circuit, circuit))
    assert cell.faithfulness[0, 1] == pytest.approx(0.2)


def test_resamples_are_the_same_whenever_asked_for() -> None:
    _weights.cache_clear()
    first = resample_weights(23).copy()
    _weights.cache_clear()
    np.testing.assert_array_equal(first, resample_weights(23))
    np.testing.assert_allclose(first.sum(axis=1), 1)
    with pytest.raises(ValueError, match="read-only"):
        resample_weights(23)[0, 0] = 1


def test_intervals_are_order_statistics_rounded_outward() -> None:
    low, high = interval_ends(np.random.default_rng(0).permutation(np.arange(1000.0)))
    assert (low, high) == (24, 975)
    few_missing, many_missing = np.arange(1000.0), np.arange(1000.0)
    few_missing[-20:] = math.inf
    many_missing[-30:] = math.inf
    assert interval_ends(few_missing)[1] == 975
    assert interval_ends(many_missing)[1] == math.inf


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    generator = np.random.default_rng(7)
    weights = resample_weights(50)
    covered = 0
    for _ in range(400):
        sample = generator.normal(3.0, 1.0, 50)
        number = estimate_rows(weights @ sample)
        assert number.low <= number.value <= number.high
        covered += number.low <= 3.0 <= number.high
    # 95% of 400 is 380; the percentile interval is a little short at n = 50; 4 standard errors are 17.
    assert 355 <= covered <= 397


@pytest.mark.slow
@given(st.floats(0.01, 100), st.floats(-50, 50))
def test_summaries_do_not_depend_on_the_scale_of_the_metric(scale: float, shift: float) -> None:
    curve = curve_values(np.array([0, 0.1, 0.3, 0.6, 0.85, 0.95, 1.02, 1]))
    moved = CurveValues(
        curve.sizes,
        curve.total,
        curve.full * scale + shift,
        curve.empty * scale + shift,
        curve.circuit * scale + shift,
        curve.complement * scale + shift,
    )
    before, after = normalise(curve), normalise(moved)
    for name in STATISTICS:
        a, b = estimate(before, name), estimate(after, name)
        assert (b.value, b.low, b.high) == pytest.approx((a.value, a.low, a.high), rel=1e-6)


# --- degenerate and censored cells ---


def test_where_both_ends_are_equal_nothing_is_divided() -> None:
    generator = np.random.default_rng(1)
    empty = generator.normal(0, 1, 50)
    values = generator.normal(0, 1, (50, len(SIZES)))
    cell = normalise(CurveValues(SIZES, 100, empty + 1e-9, empty, values, values))
    assert cell.degenerate
    assert np.isnan(cell.faithfulness).all()
    for name in STATISTICS:
        number = estimate(cell, name)
        assert math.isnan(number.value)
        assert math.isnan(number.low)
        assert math.isnan(number.high)


@pytest.mark.parametrize("gap", [-3.0, 0.02])
def test_a_small_or_negative_gap_is_divided_by(gap: float) -> None:
    """Whether it says anything is for the gates; what was measured is shown."""
    generator = np.random.default_rng(1)
    empty = generator.normal(0, 1, 50)
    full = empty + gap + generator.normal(0, 1, 50)
    values = generator.normal(0, 1, (50, len(SIZES)))
    cell = normalise(CurveValues(SIZES, 100, full, empty, values, values))
    assert not cell.degenerate
    expected = (values.mean(axis=0) - empty.mean()) / (full - empty).mean()
    np.testing.assert_allclose(cell.faithfulness[0], expected, rtol=1e-9)


def test_a_clear_gap_is_not_flagged_however_small() -> None:
    empty = np.full(20, 3.0)
    values = np.full((20, len(SIZES)), 3.005)
    cell = normalise(CurveValues(SIZES, 100, empty + 0.01, empty, values, values))
    assert not cell.degenerate
    np.testing.assert_allclose(cell.faithfulness, 0.5)


@pytest.mark.parametrize("name", ["bits_to_80", "bits_to_90"])
@pytest.mark.parametrize("top", [0.7, 0.801, 1.0])
@pytest.mark.parametrize("first", [0.1, 0.85])
def test_the_interval_of_bits_is_that_of_nodes(name: str, top: float, first: float) -> None:
    """Bits never fall as nodes rise, so the ends of the one interval give those of the other."""
    curve = curve_values(np.array([0, first, 0.2, 0.3, 0.5, 0.6, 0.65, top]), noise=1.0)
    cell = normalise(curve)
    found, nodes = estimate(cell, name), estimate(cell, name.replace("bits", "nodes"))
    for end in ("value", "low", "high"):
        assert getattr(found, end) == pytest.approx(float(circuit_bits(100, np.array(getattr(nodes, end))))), end


def test_an_interval_that_does_not_reach_the_target_ends_at_infinity() -> None:
    curve = curve_values(np.array([0, 0.1, 0.2, 0.3, 0.5, 0.7, 0.75, 0.801]), noise=1.0)
    number = estimate(normalise(curve), "nodes_to_80")
    assert number.value == 100
    assert number.high == math.inf
    assert not_reached_bound(100, "nodes_to_80") == 100
    assert not_reached_bound(100, "bits_to_80") == pytest.approx(math.log2(math.comb(100, 50)))


@pytest.mark.parametrize(
    "change", [{"sizes": (0, 2, 1)}, {"sizes": (1, 2, 3)}, {"total": 7}, {"full": np.ones(2)}, {"empty": np.ones(1)}]
)
def test_malformed_values_are_refused(change: dict[str, object]) -> None:
    good: dict[str, object] = {
        "sizes": (0, 1, 3),
        "total": 3,
        "full": np.ones(4),
        "empty": np.zeros(4),
        "circuit": np.zeros((4, 3)),
        "complement": np.zeros((4, 3)),
    }
    CurveValues(**good)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"sizes|shape|F\(M\)"):
        CurveValues(**(good | change))  # type: ignore[arg-type]


# --- paired differences ---


def test_a_paired_difference_is_narrower_than_two_intervals() -> None:
    # The same examples, the same noise: the second basis is 0.05 better on every example.
    first = curve_values(np.linspace(0.1, 0.8, 8), noise=2.0)
    gap = (first.full - first.empty).mean()
    second = CurveValues(
        first.sizes, first.total, first.full, first.empty, first.circuit + 0.05 * gap, first.complement
    )
    a, b = normalise(first), normalise(second)
    single = estimate(a, "area_faithfulness")
    difference = paired_difference(b, a, "area_faithfulness")
    assert difference.value == pytest.approx(0.05)
    assert difference.low > 0
    assert difference.high - difference.low < (single.high - single.low) / 2


def test_a_paired_difference_of_resamples_equals_a_loop() -> None:
    a = normalise(curve_values(np.linspace(0, 1, 8), seed=1))
    b = normalise(curve_values(np.linspace(0, 1, 8) ** 2, seed=1))
    number = paired_difference(a, b, "nodes_to_80")
    rows_a, rows_b = (nodes_to(SIZES, cell.faithfulness, 0.8) for cell in (a, b))
    each = sorted(rows_a[row] - rows_b[row] for row in range(1, DRAWS + 1))
    ends = [float(end) for end in (each[24], each[975])]
    # The value is of measured sizes, and the interval holds it.
    assert number.value == rows_a[0] - rows_b[0]
    assert (number.low, number.high) == pytest.approx((min(ends[0], number.value), max(ends[1], number.value)))


def constant_cell(value: float, total: int = 100) -> Normalised:
    """A cell whose curve steps from 0 to `value` at its last size, in every resample."""
    row = np.zeros((DRAWS + 1, len(SIZES)))
    row[:, -1] = value
    return Normalised(SIZES, total, row, row, degenerate=False, scored=total, area_end=total)


def test_differences_of_cells_that_do_not_arrive_are_bounds() -> None:
    arrives, fails = constant_cell(1.0), constant_cell(0.5)
    reached = nodes_to(SIZES, arrives.faithfulness[:2], 0.8)[1]
    one = paired_difference(arrives, fails, "nodes_to_80")
    assert one.value == -math.inf
    assert (one.low, one.high) == (-math.inf, pytest.approx(reached - 100))
    other = paired_difference(fails, arrives, "nodes_to_80")
    assert (other.low, other.high) == (pytest.approx(100 - reached), math.inf)
    both = paired_difference(fails, fails, "nodes_to_80")
    assert math.isnan(both.value)
    assert (both.low, both.high) == (-math.inf, math.inf)


def test_cells_with_different_examples_cannot_be_paired() -> None:
    few = Normalised(SIZES, 100, np.ones((11, 8)), np.ones((11, 8)), degenerate=False, scored=100, area_end=100)
    with pytest.raises(ValueError, match="same examples"):
        paired_difference(constant_cell(1.0), few, "nodes_to_80")
