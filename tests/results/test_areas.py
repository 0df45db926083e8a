"""Areas: closed forms, a slow twin of many points, one end for all bases of a family, MIB's grid of shares."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from basisbench.results.areas import SHARES, log_area, share_area
from basisbench.results.frame import summarise
from basisbench.results.metrics import estimate, normalise, sizes_grid
from helpers.synthetic_curves import SIZES, curve_values, rows
from helpers.synthetic_records import changed, synthetic_record


def test_log_areas_of_known_curves() -> None:
    line = rows(123.0, *(math.log10(k) / 2 for k in SIZES[1:]))  # size 0 has no place on the axis
    assert log_area(SIZES, line)[0] == pytest.approx(0.5)
    assert log_area(SIZES, rows(0, *[0.3] * 7))[0] == pytest.approx(0.3)
    assert log_area((0, 1), rows(0.0, 0.7))[0] == 0.7
    uneven = (0, 1, 10, 1000)  # 0..1 over the first third of the axis, then 1
    assert log_area(uneven, rows(0, 0, 1, 1))[0] == pytest.approx(0.5 / 3 + 2 / 3)


def test_a_narrow_basis_keeps_its_last_value_and_a_wide_one_is_cut() -> None:
    line = rows(0.0, *(math.log10(k) / 2 for k in SIZES[1:]))
    # To 10,000: half of the axis below the line, of mean 0.5, then 1.
    assert log_area(SIZES, line, end=10_000)[0] == pytest.approx(0.75)
    # To 7: a line in log k from 0 to log10(7) / 2, between two sizes.
    assert log_area(SIZES, line, end=7)[0] == pytest.approx(math.log10(7) / 4)
    assert log_area(SIZES, line, end=1)[0] == 0.0
    assert log_area((0, 1), rows(0.0, 0.7), end=50)[0] == pytest.approx(0.7)


def test_nodes_without_a_score_add_nothing_to_an_area() -> None:
    curve = rows(0.1, 0, 0, 0, 0.5, 0.9, 1.0, 1.0)
    held = rows(0.1, 0, 0, 0, 0.5, 0.5, 0.5, 0.5)
    for scored in (10, 15, 19):
        assert log_area(SIZES, curve, scored=scored)[0] == pytest.approx(log_area(SIZES, held)[0])
    assert log_area(SIZES, curve, scored=0)[0] == 0.1


def test_sizes_that_were_not_measured_are_left_out() -> None:
    full = rows(1.0, 0.9, 0.8, 0.6, 0.4, 0.3, 0.1, 0.0)
    missing = full.copy()
    missing[0, [2, 4]] = np.nan
    kept = [0, 1, 3, 5, 6, 7]
    expected = log_area([SIZES[index] for index in kept], full[:, kept])
    assert log_area(SIZES, missing)[0] == pytest.approx(expected[0])


@given(
    st.lists(st.floats(-2, 3, width=32), min_size=len(SIZES), max_size=len(SIZES)),
    st.integers(2, 5000),
    st.integers(1, 100),
)
def test_the_area_is_the_mean_of_the_line_at_many_points(values: list[float], end: int, scored: int) -> None:
    last = max(size for size in SIZES if size <= scored)
    sizes = [size for size in SIZES if 1 <= size <= last]
    points = (np.arange(20_000) + 0.5) / 20_000 * math.log(end)
    slow = np.interp(points, np.log(sizes), values[1 : len(sizes) + 1]).mean()
    assert log_area(SIZES, np.array([values]), end=end, scored=scored)[0] == pytest.approx(slow, abs=2e-3)


def test_the_two_areas_add_up_to_1_below_the_ideal() -> None:
    cell = normalise(curve_values(np.array([0, 0.1, 0.2, 0.4, 0.6, 0.7, 0.8, 0.9]), noise=0.01))
    total = estimate(cell, "area_faithfulness").value + estimate(cell, "area_distance").value
    assert total == pytest.approx(1)


def test_width_buys_no_area() -> None:
    """Divided by each basis's own log N, a basis with many nodes that nobody needs had the larger area."""
    slow = [0, 0.1, 0.2, 0.4, 0.5, 0.7, 0.9, 1.0]
    wide_sizes = (*SIZES, 1000, 10_000)
    wide = [0, 0.05, 0.1, 0.3, 0.4, 0.6, 0.9, 1.0, 1.0, 1.0]
    assert log_area(wide_sizes, rows(*wide))[0] > log_area(SIZES, rows(*slow))[0], "the old way"
    assert log_area(wide_sizes, rows(*wide), end=100)[0] < log_area(SIZES, rows(*slow), end=100)[0]
    # All the same for every end, once both are cut or held there.
    for end in (20, 100, 5000):
        assert log_area(wide_sizes, rows(*wide), end=end)[0] < log_area(SIZES, rows(*slow), end=end)[0]


def test_adding_or_widening_a_basis_changes_no_other_area() -> None:
    few = [synthetic_record(basis=basis) for basis in ("mlp_act", "mlp_out")]
    alone = summarise(few).set_index("basis")
    beside = summarise([*few, synthetic_record(basis="sae_mlp_out")]).set_index("basis")
    for name in ("area_faithfulness", "area_distance", "area_completeness"):
        assert beside.loc[["mlp_act", "mlp_out"], name].tolist() == alone[name].tolist()
    # The same curve with nodes that add nothing: no larger area, no smaller one.
    (record,) = few[:1]
    curve = {name: (*values, values[-1]) for name, values in record.curve.model_dump().items() if values is not None}
    total = record.counts.nodes_max * 10
    curve["sizes"] = (*record.curve.sizes, total)
    wide = changed(
        record,
        curve=curve,
        counts={"nodes_max": total, "nodes_mean": total},
        record={"groups": (record.groups[0].model_copy(update={"nodes": total, "scored_nodes": total}),)},
    )
    assert record.counts.area_end == record.counts.nodes_max
    for name in ("area_faithfulness", "area_distance"):
        assert summarise([wide])[name].item() == pytest.approx(alone.loc["mlp_act", name])


WIDTHS = {"mlp_out": 128, "mlp_act": 512}
"""Units of a layer of the pocket model, which has four layers."""


@pytest.mark.parametrize(
    ("end", "medians"),
    [
        (None, {"sae_mlp_out": 0.619, "mlp_act": 0.599, "clt": 0.475, "mlp_out": 0.468}),
        ("mlp_out", {"sae_mlp_out": 0.491, "mlp_act": 0.533, "clt": 0.309, "mlp_out": 0.468}),
        ("mlp_act", {"sae_mlp_out": 0.586, "mlp_act": 0.599, "clt": 0.431, "mlp_out": 0.543}),
    ],
)
def test_on_one_axis_what_was_published_turns_round(end: str | None, medians: dict[str, float]) -> None:
    """Curves of 0.4.0 under relp, median over nine tasks: each basis's own N had put dictionaries above neurons."""
    curves = json.loads((Path(__file__).parents[1] / "data" / "curves_of_0.4.0.json").read_text(encoding="utf-8"))
    for basis, cells in curves.items():
        areas = [
            log_area(
                cell["sizes"],
                rows(*cell["faithfulness"]),
                end=None if end is None else WIDTHS[end] * 4 * cell["positions"],
            )[0]
            for cell in cells
        ]
        assert len(areas) == 9
        assert np.median(areas) == pytest.approx(medians[basis], abs=6e-4)


# --- MIB ---


def slow_share_area(sizes: tuple[int, ...], values: list[float], *, distance: bool) -> float:
    """Trapezoids between MIB's shares, each size found by a loop."""

    def at(size: int) -> float:
        if size in sizes:
            return values[sizes.index(size)]
        right = next(index for index, measured in enumerate(sizes) if measured > size)
        part = math.log(size / sizes[right - 1]) / math.log(sizes[right] / sizes[right - 1])
        return values[right - 1] * (1 - part) + values[right] * part

    found = [at(int(share * sizes[-1])) for share in SHARES]
    found = [abs(1 - value) if distance else value for value in found]
    return sum((SHARES[i + 1] - SHARES[i]) * (found[i] + found[i + 1]) / 2 for i in range(len(SHARES) - 1))


@given(st.sampled_from([1, 7, 100, 999, 28_672]), st.booleans(), st.randoms(use_true_random=False))
def test_cpr_and_cmd_equal_a_loop(total: int, distance: bool, random: object) -> None:
    sizes = sizes_grid(total)
    values = [random.uniform(-1, 2) for _ in sizes]  # type: ignore[attr-defined]
    expected = slow_share_area(sizes, values, distance=distance)
    assert share_area(sizes, np.array([values]), distance=distance)[0] == pytest.approx(expected)


def test_cpr_of_a_perfect_circuit_is_the_length_of_mib_s_axis() -> None:
    """From a share of 0.001 to 1, as its published code sums it; CMD is 0 then."""
    perfect = rows(*[1.0] * len(SIZES))
    assert share_area(SIZES, perfect)[0] == pytest.approx(0.999)
    assert share_area(SIZES, perfect, distance=True)[0] == 0
