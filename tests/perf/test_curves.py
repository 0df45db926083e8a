"""What a point of a curve costs, and a whole curve."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from basisbench.circuits.evaluate import evaluate
from basisbench.circuits.ranking import Ranking, rank
from basisbench.results.record import CellConfig
from conftest import Workload
from figures import Figures
from helpers.passes import measure_group

SIZES = (0, 1, 2, 3, 5, 7, 10, 20, 30, 50, 70, 100, 200, 300, 500, 700, 1000, 2000, 3000)


def ranking_of(workload: Workload, name: str) -> Ranking:
    return rank(workload.method("ixg").score(workload.group.attribution, workload.basis(name)), policy="coordinates")


def point(workload: Workload, name: str, size: int, *, complement: bool = False) -> Callable[[], None]:
    """Return work that evaluates one circuit, everything shared prepared."""
    basis, group, ranking = workload.basis(name), workload.group, ranking_of(workload, name)
    group.reference(basis, "mean"), group.shared_work(basis, "mean")

    def work() -> None:
        evaluate(group, basis, "mean", lambda _chosen: ranking.mask([size], [complement]), 1)

    return work


@pytest.mark.parametrize("name", ["mlp_act", "mlp_out"])
def test_a_point_of_a_neuron_curve(
    benchmark: BenchmarkFixture, figures: Figures, workload: Workload, name: str
) -> None:
    figures.ratio(
        benchmark,
        f"one point of a curve, {name}, 100 nodes",
        point(workload, name, 100),
        {"plain forward": workload.plain_forward},
        bound=0.75,
        what="plain full forward of the same batch",
    )


@pytest.mark.parametrize("share", [0.00002, 0.001, 0.03, 0.5])
@pytest.mark.parametrize("complement", [False, True], ids=["circuit", "complement"])
def test_a_point_of_a_dictionary_curve(
    benchmark: BenchmarkFixture, figures: Figures, workload: Workload, share: float, complement: bool
) -> None:
    model, dictionaries = workload.model, workload.dictionaries.dictionaries
    size = max(1, round(share * ranking_of(workload, "sae_mlp_out").nodes))
    tokens, plain = workload.group.evaluation.batch.clean, workload.plain
    x = torch.randn(tokens.numel(), workload.shape.width)
    f = torch.randn(tokens.numel(), workload.shape.units).relu()

    def body() -> None:
        with torch.inference_mode():
            plain.transformer(input_ids=tokens, use_cache=False)

    def products() -> None:
        with torch.inference_mode():
            for dictionary in dictionaries:
                torch.mm(x, dictionary.W_enc)
                torch.mm(f, dictionary.W_dec)

    figures.ratio(
        benchmark,
        f"one point of a curve, {model.layers} SAEs of {workload.shape.units} units, "
        f"{'all but ' if complement else ''}{size} nodes",
        point(workload, "sae_mlp_out", size, complement=complement),
        {"body forward": body, "encoder and decoder products": products},
        bound=1.2,
        what="plain body forward + the encoders' and decoders' own matrix products",
    )


@pytest.mark.parametrize("name", ["mlp_act", "sae_mlp_out"])
def test_a_curve_of_twenty_sizes(benchmark: BenchmarkFixture, figures: Figures, workload: Workload, name: str) -> None:
    basis, group, ranking = workload.basis(name), workload.group, ranking_of(workload, name)
    sizes = (*SIZES, ranking.nodes)
    cell = CellConfig(
        model="m", task="t", task_version="1", basis=name, family="mlp", method="ixg",
        attribution_pairs=workload.shape.pairs, evaluation_pairs=workload.shape.pairs,
    )  # fmt: skip
    points = [point(workload, name, size, complement=complement) for size in SIZES[1:] for complement in (False, True)]

    def one_by_one() -> None:
        for work in points:
            work()
        points[-1]()  # 40 points in all: both ends cost as much as any other here
        points[-2]()
        points[0]()
        points[1]()

    figures.ratio(
        benchmark,
        f"circuits and complements of 20 sizes in one curve, {name}",
        lambda: measure_group(cell, basis, group, ranking, sizes),
        {"40 points": one_by_one},
        bound=1.0,
        what="40 interior points, one at a time",
    )
