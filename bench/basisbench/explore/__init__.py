"""A run's steps, and what follows a curve, as functions: nodes, edges, graphs, steering, swaps, halves, known truth."""

from typing import TYPE_CHECKING

from basisbench.lazy import lazy_names

if TYPE_CHECKING:
    from basisbench.explore.edge_circuits import Edges, edges
    from basisbench.explore.halving import halves
    from basisbench.explore.mediation import mediate
    from basisbench.explore.node_graph import graph
    from basisbench.explore.nodes import describe_nodes
    from basisbench.explore.steering import steer
    from basisbench.explore.steps import Circuit, Evaluation, NodeScores, load_model, load_pairs, score
    from basisbench.explore.swapping import swap
    from basisbench.explore.truth import agreement_with_truth

__all__ = [
    "Circuit",
    "Edges",
    "Evaluation",
    "NodeScores",
    "agreement_with_truth",
    "describe_nodes",
    "edges",
    "graph",
    "halves",
    "load_model",
    "load_pairs",
    "mediate",
    "score",
    "steer",
    "swap",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "Circuit": "steps",
        "Edges": "edge_circuits",
        "Evaluation": "steps",
        "NodeScores": "steps",
        "agreement_with_truth": "truth",
        "describe_nodes": "nodes",
        "edges": "edge_circuits",
        "graph": "node_graph",
        "halves": "halving",
        "load_model": "steps",
        "load_pairs": "steps",
        "mediate": "mediation",
        "score": "steps",
        "steer": "steering",
        "swap": "swapping",
    },
)
