"""How time and memory grow: with examples, sizes, layers and width, and with sizes and bases."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from basisbench.circuits.ranking import rank
from basisbench.registry import load_registry
from basisbench.results.record import CellConfig
from figures import Figures
from helpers.passes import measure_group
from workload import Shape, open_group, random_dictionaries, random_model

FACTOR = 8


def curve(shape: Shape, basis_name: str, sizes: int) -> Callable[[], Any]:
    """Return work that measures a curve of some sizes; everything that cells share is ready."""
    model = random_model(shape)
    group, registry = open_group(model, shape), load_registry()
    if basis_name == "sae_mlp_out":
        basis: Any = random_dictionaries(model, shape, group.attribution)
    else:
        basis = registry.get("basis", basis_name).build(model)
    ranking = rank(registry.get("method", "ixg").score(group.attribution, basis), policy="coordinates")
    steps = tuple(round(ranking.nodes ** (index / sizes)) for index in range(sizes))
    steps = tuple(max(size, index) for index, size in enumerate(steps))
    cell = CellConfig(
        model="m", task="t", task_version="1", basis=basis_name, family="mlp", method="ixg",
        attribution_pairs=shape.pairs, evaluation_pairs=shape.pairs,
    )  # fmt: skip
    return lambda: measure_group(cell, basis, group, ranking, steps)


def changed(shape: Shape, axis: str, *, large: bool) -> tuple[Shape, int]:
    """Return a smaller or an eight times larger shape along an axis, and the number of sizes."""
    times = FACTOR if large else 1
    small = replace(shape, layers=max(2, shape.layers // 4), pairs=max(2, shape.pairs // 4))
    if axis == "sizes":
        return small, 5 * times
    if axis == "examples":
        return replace(small, pairs=small.pairs * times), 8
    if axis == "layers":
        return replace(small, layers=small.layers * times), 8
    if axis == "units":
        return replace(small, units=small.units // FACTOR * times), 8
    return replace(small, width=small.width // FACTOR * times, heads=max(1, small.heads // FACTOR) * times), 8


# The first block and the last cost less than one in between (basisbench.circuits.fast.shared_work), so that a model of
# few layers costs less than its share: what must not grow is the cost of a further layer. See the next test.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("axis", "basis", "bound"),
    [
        ("examples", "mlp_act", FACTOR),
        ("sizes", "mlp_act", FACTOR),
        ("layers", "mlp_act", None),
        ("width", "mlp_act", FACTOR**2),  # products of matrices: weights grow with the square of the width
        ("examples", "sae_mlp_out", FACTOR),
        ("sizes", "sae_mlp_out", FACTOR),
        ("layers", "sae_mlp_out", None),
        ("units", "sae_mlp_out", FACTOR),
    ],
)
def test_growth(
    benchmark: BenchmarkFixture, figures: Figures, shape: Shape, axis: str, basis: str, bound: float | None
) -> None:
    small, large = (
        curve(sized, basis, sizes) for sized, sizes in (changed(shape, axis, large=large) for large in (False, True))
    )
    figures.ratio(
        benchmark,
        f"a curve, {basis}: {FACTOR} times the {axis}",
        large,
        {"once": small},
        bound=bound,
        what=f"the same curve at one {FACTOR}th of the {axis}",
    )


@pytest.mark.slow
@pytest.mark.parametrize("basis", ["mlp_act", "sae_mlp_out"])
def test_a_further_layer_costs_the_same(
    benchmark: BenchmarkFixture, figures: Figures, shape: Shape, basis: str
) -> None:
    few = changed(shape, "layers", large=False)[0]
    # Dictionaries of a quarter of the units: those of eight times the layers, too, are small enough to be packed.
    depths = [few.layers * times for times in (1, 2, 4, 8)]
    curves = [curve(replace(few, layers=layers, units=few.units // 4), basis, 8) for layers in depths]
    taken: list[list[float]] = []

    def one_round() -> None:
        taken.append([])
        for work in curves:
            start = time.perf_counter()
            work()
            taken[-1].append(time.perf_counter() - start)

    benchmark.pedantic(one_round, rounds=figures.rounds, warmup_rounds=1)
    seconds = [statistics.median(one[index] for one in taken[-figures.rounds :]) for index in range(len(depths))]
    first, last = ((seconds[i + 1] - seconds[i]) / (depths[i + 1] - depths[i]) for i in (1, 2))
    if not benchmark.disabled:
        figures.value(
            f"cost of a further layer, {basis}, from {depths[2]} to {depths[3]}",
            f"the same from {depths[1]} to {depths[2]}", 1.1, last / first, last,
        )  # fmt: skip
        figures.tables[f"seconds by layers, {basis}"] = [dict(zip(map(str, depths), seconds, strict=True))]


PEAK = """
import sys
sys.path[:0] = [{folder!r}, {tests!r}]
from dataclasses import replace
from workload import SHAPES
import memory_of_curves
shape = SHAPES[{shape!r}]
print(memory_of_curves.peak_of_{what}(replace(shape, units=shape.units // 4), {count}))
"""


def peak_bytes(shape: Shape, what: str, count: int) -> int:
    """Return the peak resident memory of a fresh process that measures curves."""
    folder = Path(__file__).parent
    code = PEAK.format(folder=str(folder), tests=str(folder.parent), shape=shape.name, what=what, count=count)
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return int(found.stdout.splitlines()[-1])


@pytest.mark.measured
@pytest.mark.parametrize(("what", "few", "many"), [("sizes", 5, 50), ("bases", 1, 5)])
def test_memory_does_not_grow(
    benchmark: BenchmarkFixture, figures: Figures, shape: Shape, what: str, few: int, many: int
) -> None:
    start = time.perf_counter()
    small = [benchmark.pedantic(peak_bytes, args=(shape, what, few), rounds=1), peak_bytes(shape, what, few)]
    large = [peak_bytes(shape, what, many) for _ in range(2)]
    ratio = statistics.mean(large) / statistics.mean(small)
    # Two runs of the same work differ by about a percent: the allocator, and the order in which threads ask it.
    figures.value(
        f"peak memory with {many} {what}", f"peak memory with {few}", 1.02, ratio, time.perf_counter() - start
    )
    figures.tables[f"peak memory, bytes: {what}"] = [{few: statistics.mean(small)}, {many: statistics.mean(large)}]
