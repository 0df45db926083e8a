"""What a cell takes whose errors are written in coordinates, against one in which each error is one node."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from basisbench.models.load import load_model
from basisbench.registry import load_registry
from basisbench.results.record import CellConfig, Record
from basisbench.runs.session import Session, open_session
from basisbench.types import ErrorPolicy
from figures import Figures

PAIRS = 100


@cache
def session() -> Session:
    registry = load_registry()
    model = load_model(registry.get("model", "pocket-llama"))
    task = registry.get("task", "sva_rc")
    return open_session(model, task, attribution_pairs=PAIRS, evaluation_pairs=PAIRS, seed=0)


def cell(basis: str, method: str, policy: ErrorPolicy) -> Callable[[], Record]:
    """Return work that runs a whole cell on the pocket model; what cells share is ready after the first."""
    registry = load_registry()
    config = CellConfig(
        model="pocket-llama", task="sva_rc", task_version="1", basis=basis, family="mlp", method=method,
        attribution_pairs=PAIRS, evaluation_pairs=PAIRS, error_policy=policy,
    )  # fmt: skip
    return lambda: session().run(config, registry.get("basis", basis), registry.get("method", method))


@pytest.mark.measured
@pytest.mark.parametrize("method", ["relp", "magnitude"])
@pytest.mark.parametrize("basis", ["sae_mlp_out", "transcoder", "clt"])
def test_errors_in_coordinates(benchmark: BenchmarkFixture, figures: Figures, basis: str, method: str) -> None:
    figures.ratio(
        benchmark,
        f"a cell of the pocket model, {basis}, {method}, errors in coordinates",
        cell(basis, method, "coordinates"),
        {"errors as nodes": cell(basis, method, "node")},
        bound=1.3,
        what="the same cell with an error node per layer and position",
    )
