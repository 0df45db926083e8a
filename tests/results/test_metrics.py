"""Curves to numbers: closed forms, and naive twins of the vectorised code."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from basisbench.results.bootstrap import (
    SEED,
)
from basisbench.results.metrics import (
    METRICS,
    STATISTICS,
    bits_to,
    circuit_bits,
    estimate,
    log_area,
    nodes_to,
    normalise,
    settled_to,
    sizes_grid,
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


def test_a_curve_linear_in_log_k_is_read_exactly() -> None:
    # F = log10(k) / 2 on 1..100, so F = t at k = 10 ** (2 t).
    line = rows(0.0, *(math.log10(k) / 2 for k in SIZES[1:]))
    for target in (0.1, 0.33, 0.5, 0.8, 0.95):
        assert nodes_to(SIZES, line, target)[0] == pytest.approx(10 ** (2 * target), rel=1e-12)
        assert settled_to(SIZES, line, target)[0] == pytest.approx(10 ** (2 * target), rel=1e-12)


def test_a_crossing_before_the_first_node_is_linear_in_k() -> None:
    step = rows(0.2, 1.0, 1, 1, 1, 1, 1, 1)
    assert nodes_to(SIZES, step, 0.8)[0] == pytest.approx(0.75)
    assert settled_to(SIZES, step, 0.8)[0] == pytest.approx(0.75)


def test_an_empty_circuit_that_reaches_the_target_needs_0_nodes() -> None:
    flat = rows(*[0.95] * 8)
    assert nodes_to(SIZES, flat, 0.9)[0] == 0
    assert settled_to(SIZES, flat, 0.9)[0] == 0


def test_a_target_met_exactly_at_a_measured_size() -> None:
    assert nodes_to(SIZES, rows(0, 0, 0, 0.8, 0.9, 1, 1, 1), 0.8)[0] == pytest.approx(5)


def test_a_curve_that_never_arrives_is_infinite() -> None:
    low = rows(0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
    assert nodes_to(SIZES, low, 0.8)[0] == math.inf
    assert settled_to(SIZES, low, 0.8)[0] == math.inf
    assert bits_to(SIZES, 100, low, 0.8)[0] == math.inf


def test_settling_is_two_sided() -> None:
    # Reaches 0.9 early, overshoots to 1.7 at 20 nodes, and is back within 0.1 between 20 and 50.
    bump = rows(0, 0.5, 0.95, 1.3, 1.7, 1.7, 1.0, 1.0)
    expected = 20 * (50 / 20) ** ((1.7 - 1.1) / 0.7)
    assert nodes_to(SIZES, bump, 0.9)[0] < 2
    assert settled_to(SIZES, bump, 0.9)[0] == pytest.approx(expected)
    above_at_the_end = rows(0, 1, 1, 1, 1, 1, 1, 1.7)
    assert settled_to(SIZES, above_at_the_end, 0.9)[0] == math.inf


def test_a_dip_restarts_settling_from_below() -> None:
    dip = rows(0, 1.0, 1.0, 0.5, 1.0, 1, 1, 1)
    assert settled_to(SIZES, dip, 0.9)[0] == pytest.approx(5 * 2**0.8)


def naive_nodes_to(values: np.ndarray, target: float) -> float:
    if values[0] >= target:
        return 0.0
    for left in range(len(SIZES) - 1):
        if values[left + 1] >= target:
            fraction = (target - values[left]) / (values[left + 1] - values[left])
            if left == 0:
                return float(fraction)
            return math.exp(math.log(SIZES[left]) * (1 - fraction) + math.log(SIZES[left + 1]) * fraction)
    return math.inf


curves = st.lists(st.floats(-2, 3, width=32), min_size=len(SIZES), max_size=len(SIZES)).map(np.array)
targets = st.sampled_from([0.5, 0.8, 0.9])


@given(st.lists(curves, min_size=1, max_size=5), targets)
def test_nodes_to_equals_a_plain_loop(values: list[np.ndarray], target: float) -> None:
    expected = [naive_nodes_to(row, target) for row in values]
    np.testing.assert_allclose(nodes_to(SIZES, np.array(values), target), expected, rtol=1e-9)


@given(curves, targets)
def test_settling_never_comes_before_arriving(values: np.ndarray, target: float) -> None:
    arrived, settled = nodes_to(SIZES, values[None], target)[0], settled_to(SIZES, values[None], target)[0]
    assert settled >= arrived * (1 - 1e-9)
    # What the definition says, at the measured sizes.
    inside = np.abs(values - 1) <= 1 - target + 1e-9
    assert all(inside[index] for index, size in enumerate(SIZES) if size >= settled)


@given(curves.map(np.sort), targets)
def test_a_rising_curve_that_ends_at_1_settles_when_it_arrives(values: np.ndarray, target: float) -> None:
    values = np.minimum(values, 1.0)
    arrived, settled = nodes_to(SIZES, values[None], target)[0], settled_to(SIZES, values[None], target)[0]
    assert settled == pytest.approx(arrived)


# --- bits and areas ---


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


def test_log_areas_of_known_curves() -> None:
    line = rows(123.0, *(math.log10(k) / 2 for k in SIZES[1:]))  # size 0 has no place on the axis
    assert log_area(SIZES, line)[0] == pytest.approx(0.5)
    assert log_area(SIZES, rows(0, *[0.3] * 7))[0] == pytest.approx(0.3)
    assert log_area((0, 1), rows(0.0, 0.7))[0] == 0.7
    uneven = (0, 1, 10, 1000)  # 0..1 over the first third of the axis, then 1
    assert log_area(uneven, rows(0, 0, 1, 1))[0] == pytest.approx(0.5 / 3 + 2 / 3)


def test_the_two_areas_add_up_to_1_below_the_ideal() -> None:
    cell = normalise(curve_values(np.array([0, 0.1, 0.2, 0.4, 0.6, 0.7, 0.8, 0.9]), noise=0.01))
    total = estimate(cell, "area_faithfulness").value + estimate(cell, "area_distance").value
    assert total == pytest.approx(1)


def test_every_statistic_declares_itself_once() -> None:
    assert set(STATISTICS) <= set(METRICS)
    for name, metric in METRICS.items():
        assert metric.name == name
        assert metric.title
        assert metric.unit
        assert metric.meaning
    assert SEED  # a fixed seed is what makes two machines agree
