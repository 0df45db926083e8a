"""Curves to numbers: closed forms, and naive twins of the vectorised code."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from basisbench.results.bootstrap import SEED
from basisbench.results.metrics import (
    METRICS,
    STATISTICS,
    circuit_bits,
    estimate,
    nodes_to,
    normalise,
    not_reached_bound,
    settled_to,
    sizes_grid,
    statistics_of,
)
from helpers.synthetic_curves import SIZES, curve_values, rows

# --- sizes ---


@pytest.mark.parametrize(
    ("total", "expected"),
    [
        (1, (0, 1)),
        (2, (0, 1, 2)),
        (3, (0, 1, 2, 3)),
        (10, (0, 1, 2, 5, 10)),
        (11, (0, 1, 2, 5, 10, 11)),
        (14336, (0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 14336)),
    ],
)
def test_sizes_are_0_then_1_2_5_steps_then_all(total: int, expected: tuple[int, ...]) -> None:
    assert sizes_grid(total) == expected


@given(st.integers(1, 10**7))
def test_sizes_increase_and_end_at_the_total(total: int) -> None:
    sizes = sizes_grid(total)
    assert sizes[0] == 0
    assert sizes[1] == 1
    assert sizes[-1] == total
    assert all(a < b for a, b in itertools.pairwise(sizes))


# --- where a curve arrives ---


def twice(*values: float) -> np.ndarray:
    """A curve as the sample, and once more as a resample."""
    return np.array([values, values])


def test_the_sample_s_value_is_measured_and_a_resample_s_is_read_between_sizes() -> None:
    # F = log10(k) / 2 on 1..100, so F = t at k = 10 ** (2 t).
    line = twice(0.0, *(math.log10(k) / 2 for k in SIZES[1:]))
    for target in (0.1, 0.33, 0.5, 0.8, 0.95):
        crossing = 10 ** (2 * target)
        measured = next(size for size in SIZES if size >= crossing * (1 - 1e-12))
        for function in (nodes_to, settled_to):
            value, resampled = function(SIZES, line, target)
            assert value == measured
            assert resampled == pytest.approx(crossing, rel=1e-12)


def test_a_crossing_before_the_first_node_is_linear_in_k() -> None:
    step = twice(0.2, 1.0, 1, 1, 1, 1, 1, 1)
    assert list(nodes_to(SIZES, step, 0.8)) == pytest.approx([1, 0.75])
    assert list(settled_to(SIZES, step, 0.8)) == pytest.approx([1, 0.75])


def test_an_empty_circuit_that_reaches_the_target_needs_0_nodes() -> None:
    flat = twice(*[0.95] * 8)
    assert list(nodes_to(SIZES, flat, 0.9)) == [0, 0]
    assert list(settled_to(SIZES, flat, 0.9)) == [0, 0]


def test_a_target_met_exactly_at_a_measured_size() -> None:
    assert list(nodes_to(SIZES, twice(0, 0, 0, 0.8, 0.9, 1, 1, 1), 0.8)) == pytest.approx([5, 5])


def test_a_curve_that_never_arrives_is_infinite() -> None:
    low = twice(0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
    assert set(nodes_to(SIZES, low, 0.8)) == {math.inf}
    assert set(settled_to(SIZES, low, 0.8)) == {math.inf}


@pytest.mark.parametrize(("scored", "value"), [(100, 50.0), (50, 50.0), (49, math.inf), (0, math.inf)])
def test_what_nodes_without_a_score_reach_first_is_not_reached(scored: int, value: float) -> None:
    """In the sample and in resamples alike: the size that was measured counts, not what is read before it."""
    curve = twice(0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.85, 1.0)
    for function in (nodes_to, settled_to):
        found = function(SIZES, curve, 0.8, scored=scored)
        assert found[0] == value
        assert math.isfinite(found[1]) == math.isfinite(value)
    # A curve that scored nodes bring up and random ones bring down again has not settled.
    bump = twice(0, 0.1, 0.2, 0.95, 0.95, 0.95, 0.2, 1.0)
    assert nodes_to(SIZES, bump, 0.9, scored=20)[0] == 5
    assert settled_to(SIZES, bump, 0.9, scored=20)[0] == math.inf


def test_settling_is_two_sided() -> None:
    # Reaches 0.9 early, overshoots to 1.7 at 20 nodes, and is back within 0.1 between 20 and 50.
    bump = twice(0, 0.5, 0.95, 1.3, 1.7, 1.7, 1.0, 1.0)
    expected = 20 * (50 / 20) ** ((1.7 - 1.1) / 0.7)
    assert nodes_to(SIZES, bump, 0.9)[1] < 2
    assert list(settled_to(SIZES, bump, 0.9)) == pytest.approx([50, expected])
    above_at_the_end = rows(0, 1, 1, 1, 1, 1, 1, 1.7)
    assert settled_to(SIZES, above_at_the_end, 0.9)[0] == math.inf


def test_a_dip_restarts_settling_from_below() -> None:
    dip = twice(0, 1.0, 1.0, 0.5, 1.0, 1, 1, 1)
    assert list(settled_to(SIZES, dip, 0.9)) == pytest.approx([10, 5 * 2**0.8])


def naive_nodes_to(values: np.ndarray, target: float, scored: int, *, measured: bool) -> float:
    for index, size in enumerate(SIZES):
        if values[index] < target:
            continue
        if size > scored:
            return math.inf
        if measured or index == 0:
            return float(size)
        fraction = (target - values[index - 1]) / (values[index] - values[index - 1])
        if index == 1:
            return float(fraction)
        return math.exp(math.log(SIZES[index - 1]) * (1 - fraction) + math.log(size) * fraction)
    return math.inf


curves = st.lists(st.floats(-2, 3, width=32), min_size=len(SIZES), max_size=len(SIZES)).map(np.array)
targets = st.sampled_from([0.5, 0.8, 0.9])


@given(st.lists(curves, min_size=1, max_size=5), targets, st.integers(0, 100))
def test_nodes_to_equals_a_plain_loop(values: list[np.ndarray], target: float, scored: int) -> None:
    expected = [naive_nodes_to(row, target, scored, measured=index == 0) for index, row in enumerate(values)]
    np.testing.assert_allclose(nodes_to(SIZES, np.array(values), target, scored=scored), expected, rtol=1e-9)


@given(curves, targets)
def test_settling_never_comes_before_arriving(values: np.ndarray, target: float) -> None:
    both = np.array([values, values])
    arrived, settled = nodes_to(SIZES, both, target), settled_to(SIZES, both, target)
    assert (settled >= arrived * (1 - 1e-9)).all()
    # What the definition says, at the measured sizes.
    inside = np.abs(values - 1) <= 1 - target + 1e-9
    assert all(inside[index] for index, size in enumerate(SIZES) if size >= settled[0])


@given(curves.map(np.sort), targets)
def test_a_rising_curve_that_ends_at_1_settles_when_it_arrives(values: np.ndarray, target: float) -> None:
    both = np.minimum([values, values], 1.0)
    assert list(settled_to(SIZES, both, target)) == pytest.approx(list(nodes_to(SIZES, both, target)))


# --- bits ---


@given(st.integers(1, 400), st.data())
def test_bits_are_the_logarithm_of_the_number_of_circuits(total: int, data: st.DataObject) -> None:
    nodes = data.draw(st.integers(0, total // 2))
    assert circuit_bits(total, np.array(float(nodes))) == pytest.approx(math.log2(math.comb(total, nodes)), abs=1e-8)


def test_bits_do_not_fall_beyond_half_of_the_nodes() -> None:
    bits = circuit_bits(1001, np.arange(0.0, 1001.5, 0.5))
    assert bits[0] == 0
    assert (np.diff(bits) >= 0).all()
    assert bits[-1] == bits.max() > 990
    np.testing.assert_array_equal(circuit_bits(5, np.array([math.inf, math.nan])), [math.inf, math.nan])


def test_not_reached_is_known_to_exceed_what_scores_put_in_order() -> None:
    assert not_reached_bound(30, "nodes_to_80", 100) == 30
    assert not_reached_bound(30, "bits_to_80", 100) == pytest.approx(math.log2(math.comb(100, 30)))
    assert not_reached_bound(30, "area_distance", 100) == math.inf


def test_statistics_together_are_those_one_by_one() -> None:
    cell = normalise(curve_values(np.array([0, 0.1, 0.2, 0.4, 0.6, 0.7, 0.85, 0.95])))
    together = statistics_of(cell)
    assert list(together) == list(STATISTICS)
    for name, statistic in STATISTICS.items():
        np.testing.assert_array_equal(together[name], statistic(cell))
        number = estimate(cell, name)
        assert number.value == together[name][0]
        assert number.low <= number.value <= number.high


def test_every_statistic_declares_itself_once() -> None:
    assert set(STATISTICS) <= set(METRICS)
    for name, metric in METRICS.items():
        assert metric.name == name
        assert metric.title
        assert metric.unit
        assert metric.meaning
    assert SEED  # a fixed seed is what makes two machines agree
