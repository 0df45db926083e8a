"""The sizes of a curve: a grid, the most scored nodes, and what bisection adds; planted curves, and real ones."""

from __future__ import annotations

import bisect
import math
import random
from collections.abc import Callable, Collection, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from basisbench.circuits import curve
from basisbench.circuits.curve import GroupCurve, measure_curves
from basisbench.circuits.ranking import Ranking, rank
from basisbench.results.metrics import sizes_grid
from basisbench.types import Scores
from helpers import oracle
from helpers.passes import measure_group

THRESHOLDS = (0.8, 0.9)
Planted = Callable[[int], float]
"""Faithfulness by size."""


class PlantedMeasurement:
    """Stands in for the evaluation of one group: F(0) is 0 and F(M) is 1 for each of two pairs.

    Args:
        planted: the group's faithfulness.
        ranking: the group's ranking.
    """

    full = torch.ones(2, dtype=torch.float64)
    empty = torch.zeros(2, dtype=torch.float64)

    def __init__(self, planted: Planted, ranking: Ranking) -> None:
        self._planted, self._nodes = planted, ranking.nodes
        self.circuits: list[int] = []
        self.complements: list[int] = []

    def measure(self, sizes: Sequence[int], *, complements: bool) -> None:
        self.circuits += [size for size in sizes if size not in self.circuits]
        if complements:
            self.complements += sizes

    def circuit(self, size: int) -> torch.Tensor:
        assert size in self.circuits, "asked for before it was measured"
        return self.full.new_full((2,), self._planted(min(size, self._nodes)))

    def curve(self, sizes: Sequence[int], complements: Collection[int]) -> Any:
        assert set(sizes) <= set(self.circuits)
        assert set(complements) <= set(self.complements)
        return self


def ranking_of(nodes: int, scored: int | None = None) -> Ranking:
    values = torch.arange(nodes, 0, -1.0)
    values[nodes if scored is None else scored :] = 0
    return rank(Scores((values.view(1, -1),), None), policy="coordinates")


def measured(
    planted: Planted, *rankings: Ranking, at: Collection[int] | None = None
) -> tuple[tuple[int, ...], list[PlantedMeasurement]]:
    """Measure planted curves, the same in every group, as a cell would."""
    made: list[PlantedMeasurement] = []

    def measurement(_cell: object, _basis: object, _group: object, ranking: Ranking) -> PlantedMeasurement:
        made.append(PlantedMeasurement(planted, ranking))
        return made[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(curve, "GroupMeasurement", measurement)
        sizes, _ = measure_curves(None, None, [None] * len(rankings), rankings, at=at)  # type: ignore[arg-type,list-item]
    assert all(sorted(part.circuits) == list(sizes) for part in made), "nothing is measured for nothing"
    return sizes, made


def bisected_by_hand(planted: Planted, grid: Sequence[int], scored: int) -> set[int]:
    """Return grid and probes, one threshold after the other and one probe at a time."""
    sizes = list(grid)
    while True:
        for threshold in THRESHOLDS:
            above = [size for size in sizes if planted(size) >= threshold]
            if not above or above[0] == 0 or above[0] > scored:
                continue
            first = above[0]
            before = max(size for size in sizes if size < first)
            if first == before + 1 or first / max(before, 1e-9) <= 1.05:
                continue
            bisect.insort(sizes, round(math.sqrt(before * first)))
            break
        else:
            return set(sizes)


def hold_that_crossings_are_known(planted: Planted, sizes: Sequence[int], scored: int) -> None:
    for threshold in THRESHOLDS:
        first = next((size for size in sizes if planted(size) >= threshold), None)
        if first and first <= scored:
            before = sizes[list(sizes).index(first) - 1]
            assert planted(before) < threshold
            assert first - before == 1 or first <= 1.05 * before


def stored(value: float) -> float:
    """Return a value that the five digits of a record hold well enough to tell it from the thresholds."""
    return math.floor(1024 * value) / 1024


@st.composite
def planted_curves(draw: st.DrawFn, nodes: int) -> Planted:
    """Draw a rising, a flat, a broken or a noisy curve."""
    middle, power = draw(st.floats(1, 2 * nodes)), draw(st.floats(0.2, 6))
    shape = draw(st.sampled_from(["rising", "flat", "waves", "noise", "step"]))
    level = draw(st.sampled_from([-0.5, 0.0, 0.79, 0.8, 0.85, 0.9, 1.5]))
    seed = draw(st.integers(0, 2**31))

    def planted(size: int) -> float:
        rising = stored(min(1.2, (size / middle) ** power))
        if shape == "waves":
            return stored(rising + 0.3 * math.sin(7 * math.log1p(size)))
        if shape == "noise":
            return stored(rising + random.Random(seed + size).uniform(-0.1, 0.1))
        if shape == "step":  # both thresholds are reached at one size
            return 1.0 if size >= middle else 0.0
        return level if shape == "flat" else rising

    return planted


@given(st.data())
def test_every_crossing_among_scored_nodes_is_known_to_five_percent_or_one_node(data: st.DataObject) -> None:
    nodes = data.draw(st.integers(1, 50_000))
    scored = data.draw(st.one_of(st.just(nodes), st.integers(0, nodes)))
    planted = data.draw(planted_curves(nodes))
    sizes, (part,) = measured(planted, ranking_of(nodes, scored))
    grid = sorted({*sizes_grid(nodes), scored})
    added = set(sizes) - set(grid)
    assert set(grid) <= set(sizes)
    assert len(added) <= 20
    assert not any(size > scored for size in added)
    assert sorted(set(part.complements)) == grid, "complements are measured on the grid alone"
    hold_that_crossings_are_known(planted, sizes, scored)


@given(st.data())
def test_a_rising_curve_is_measured_where_bisection_by_hand_measures_it(data: st.DataObject) -> None:
    """Where a curve falls, too, what one threshold's probes find may move the other's; that order is left open."""
    nodes = data.draw(st.integers(1, 50_000))
    scored = data.draw(st.one_of(st.just(nodes), st.integers(0, nodes)))
    middle, power = data.draw(st.floats(1, 2 * nodes)), data.draw(st.floats(0.2, 6))

    def planted(size: int) -> float:
        return stored(min(1.2, (size / middle) ** power))

    sizes, _ = measured(planted, ranking_of(nodes, scored))
    assert set(sizes) == bisected_by_hand(planted, sorted({*sizes_grid(nodes), scored}), scored)


def test_two_thresholds_in_one_bracket_are_both_found() -> None:
    def planted(size: int) -> float:
        return 1.0 if size >= 4_400 else 0.85 if size >= 2_900 else 0.1

    sizes, _ = measured(planted, ranking_of(10_000))
    for threshold, truth in ((0.8, 2_900), (0.9, 4_400)):
        first = next(size for size in sizes if planted(size) >= threshold)
        assert truth <= first <= 1.05 * truth


def test_groups_of_other_numbers_of_nodes_and_scores() -> None:
    """Up to the most scored nodes no circuit of any group holds a node without a score; a group may have none."""
    whole, short, large = ranking_of(40), ranking_of(300, 130), ranking_of(1000, 170)
    sizes, parts = measured(lambda size: size / 150, whole, short, large)
    assert {0, 1, 2, 5, 10, 20, 50, 100, 130, 200, 500, 1000} <= set(sizes)
    assert max(set(sizes) - set(sizes_grid(1000))) <= 130
    assert all(part.circuits == parts[0].circuits for part in parts)
    assert curve.most_scored([whole]) == 40
    assert curve.most_scored([whole, short, large]) == 130
    assert curve.most_scored([ranking_of(5, 0)]) == 0


def test_a_crossing_beyond_the_scored_nodes_is_not_looked_for() -> None:
    sizes, _ = measured(lambda size: size / 1000, ranking_of(2000, 700))
    assert sizes == tuple(sorted({*sizes_grid(2000), 700}))


def test_where_there_is_no_gap_nothing_is_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PlantedMeasurement, "full", PlantedMeasurement.empty)
    sizes, _ = measured(lambda size: size / 100, ranking_of(200))
    assert sizes == tuple(sizes_grid(200))


def test_sizes_that_are_asked_for_are_measured_and_no_others() -> None:
    sizes, (part,) = measured(lambda size: size / 150, ranking_of(1000), at=[137, 50, 137, 2000])
    assert sizes == (0, 50, 137, 1000)
    assert sorted(part.complements) == [0, 50, 1000]


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize("name", ["mlp_act", "transcoder"])
def test_real_curves_agree_wherever_their_sizes_do(name: str) -> None:
    """A circuit's value does not hang on what else is measured; bisection looks at all groups together."""
    groups, basis = oracle.contexts("llama"), oracle.basis("llama", name)
    twin, cell = oracle.naive_basis("llama", name), oracle.cell(name)
    rankings = [
        rank(oracle.random_scores(twin, group.evaluation.pairs.length, seed), policy="coordinates")
        for seed, group in enumerate(groups)
    ]
    sizes, parts = measure_curves(cell, basis, groups, rankings)
    grid = curve.grid_sizes(rankings)
    assert set(grid) <= set(sizes)
    some = sorted({*sizes[2::3], 7, 23})
    chosen, at_some = measure_curves(cell, basis, groups, rankings, at=some)
    assert list(chosen) == sorted({0, sizes[-1], *some})
    for group, ranking, whole, few in zip(groups, rankings, parts, at_some, strict=True):
        assert [row is None for row in whole.complement] == [size not in grid for size in sizes]
        alone = measure_group(cell, basis, group, ranking, sizes)
        _agree(alone, sizes, whole, sizes)
        _agree(whole, sizes, few, chosen)
        assert whole.error_nodes == alone.error_nodes
        assert whole.units == alone.units


def _agree(one: GroupCurve, sizes: Sequence[int], other: GroupCurve, other_sizes: Sequence[int]) -> None:
    common = sorted(set(sizes) & set(other_sizes))
    assert len(common) > 3
    for size in common:
        first, second = sizes.index(size), other_sizes.index(size)
        assert other.circuit[second] == pytest.approx(one.circuit[first], abs=1e-11)
        if one.complement[first] is not None and other.complement[second] is not None:
            assert other.complement[second] == pytest.approx(one.complement[first], abs=1e-11)
