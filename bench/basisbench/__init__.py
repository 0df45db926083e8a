"""BasisBench: which basis gives the sparsest faithful circuit, and at what cost?

The Python interface:

- `run(...)` runs a suite, or parts of one, and returns its results.
- `load_results(path)` reads records into a tidy frame: a row per cell and circuit size, intervals included.
- `summarise(path)` sums every cell up in one row: nodes and bits to 80% and 90%, areas, cost.
- `plot_curves(frame)` draws faithfulness or completeness against circuit size; `plot_results(path, out)` every picture.
- `to_dataset(path)` gives the rows of `load_results` as a Hugging Face dataset.
- `load_model`, `load_pairs` and `score` do what a run does, step by step: `NodeScores`, `Circuit`, `Evaluation`.
- `agreement_with_truth(scores)` says how high the true nodes stand, on a model whose circuit is known: `Agreement`.
- `halves(scores, pairs, k)` says whether a circuit hits its target by cancellation: `Halves`.
- `describe_nodes` says of a circuit's nodes what they read, write and do: `CircuitNodes`.
- `edges(circuit, pairs)` scores the edges between the nodes of a circuit, and measures circuits of edges.
- `steer(pairs, basis, nodes)` moves nodes by doses, with controls: `Steering`.
- `swap(pairs, basis)` sets nodes to what they are on the other prompt of a pair, with controls: `Swap`.
- `mediate(belief, response, basis)` says what part of a response's shift runs through a belief's nodes: `Mediation`.
- `graph(nodes, pairs)` scores the edges between described nodes: `report.write_graph` draws them.
- `BasisBenchError` is what a mistake in the input raises: one line that says what, where and what to do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from basisbench.lazy import lazy_names
from basisbench.old_paths import install
from basisbench.version import __version__

if TYPE_CHECKING:
    from basisbench.errors import BasisBenchError
    from basisbench.explore import (
        Circuit,
        Evaluation,
        NodeScores,
        agreement_with_truth,
        describe_nodes,
        edges,
        graph,
        halves,
        load_model,
        load_pairs,
        mediate,
        score,
        steer,
        swap,
    )
    from basisbench.plots.curves import plot_curves
    from basisbench.plots.pictures import plot_results
    from basisbench.results.dataset import to_dataset
    from basisbench.results.frame import load_results, summarise
    from basisbench.runs.run import run

__all__ = [
    "BasisBenchError",
    "Circuit",
    "Evaluation",
    "NodeScores",
    "__version__",
    "agreement_with_truth",
    "describe_nodes",
    "edges",
    "graph",
    "halves",
    "load_model",
    "load_pairs",
    "load_results",
    "mediate",
    "plot_curves",
    "plot_results",
    "run",
    "score",
    "steer",
    "summarise",
    "swap",
    "to_dataset",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "BasisBenchError": "errors",
        "Circuit": "explore",
        "agreement_with_truth": "explore",
        "describe_nodes": "explore",
        "Evaluation": "explore",
        "NodeScores": "explore",
        "edges": "explore",
        "graph": "explore",
        "halves": "explore",
        "load_model": "explore",
        "load_pairs": "explore",
        "load_results": "results.frame",
        "mediate": "explore",
        "plot_curves": "plots.curves",
        "plot_results": "plots.pictures",
        "run": "runs.run",
        "score": "explore",
        "steer": "explore",
        "summarise": "results.frame",
        "swap": "explore",
        "to_dataset": "results.dataset",
    },
)
install()
