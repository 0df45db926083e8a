"""How time and memory grow: with examples, sizes, layers and width, and with sizes and bases."""

from __future__ import annotations

import json
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

from basisbench.measure import measure_group
from basisbench.ranking import rank
from basisbench.record import CellConfig
from basisbench.registry import load_registry
from figures import Figures
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
    ranking = rank(registry.get("method", "ixg").score(group.attribution, basis), policy="node")
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


@pytest.mark.parametrize(
    ("axis", "basis", "bound"),
    [
        ("examples", "mlp_act", FACTOR),
        ("sizes", "mlp_act", FACTOR),
        ("layers", "mlp_act", FACTOR),
        ("width", "mlp_act", FACTOR**2),  # products of matrices: weights grow with the square of the width
        ("examples", "sae_mlp_out", FACTOR),
        ("sizes", "sae_mlp_out", FACTOR),
        ("layers", "sae_mlp_out", FACTOR),
        ("units", "sae_mlp_out", FACTOR),
    ],
)
def test_growth(
    benchmark: BenchmarkFixture, figures: Figures, shape: Shape, axis: str, basis: str, bound: float
) -> None:
    small, large = (curve(*(lambda s: (s[0], basis, s[1]))(changed(shape, axis, large=flag))) for flag in (False, True))
    figures.ratio(
        benchmark,
        f"a curve, {basis}: {FACTOR} times the {axis}",
        large,
        {"once": small},
        bound=bound,
        what=f"the same curve at one {FACTOR}th of the {axis}",
    )


PEAK = """
import json, sys
sys.path.insert(0, {folder!r})
from workload import SHAPES
from memory_of_curves import peak
print(json.dumps(peak(SHAPES[{shape!r}], {sizes}, {bases})))
"""


def peak_bytes(shape: Shape, sizes: int, bases: int) -> int:
    """Return the peak resident memory of a fresh process that measures curves."""
    code = PEAK.format(folder=str(Path(__file__).parent), shape=shape.name, sizes=sizes, bases=bases)
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return int(json.loads(found.stdout.splitlines()[-1]))


@pytest.mark.slow
def test_memory_does_not_grow(benchmark: BenchmarkFixture, figures: Figures, shape: Shape) -> None:
    start = time.perf_counter()
    one = statistics.median(benchmark.pedantic(peak_bytes, args=(shape, 5, 1), rounds=1) for _ in range(1))
    few = statistics.median([one, peak_bytes(shape, 5, 1), peak_bytes(shape, 5, 1)])
    many = statistics.median(peak_bytes(shape, 50, 1) for _ in range(3))
    five = statistics.median(peak_bytes(shape, 5, 5) for _ in range(3))
    seconds = time.perf_counter() - start
    # Two runs of the same work differ by about a percent: the allocator, and the order in which threads ask it.
    figures.value("peak memory of a curve of 50 sizes", "peak memory with 5 sizes", 1.02, many / few, seconds)
    figures.value("peak memory of curves of 5 bases", "peak memory with 1 basis", 1.02, five / few, seconds)
    figures.tables["peak memory"] = [
        {"what": "5 sizes, 1 basis", "bytes": few},
        {"what": "50 sizes, 1 basis", "bytes": many},
        {"what": "5 sizes, 5 bases", "bytes": five},
    ]
