"""Draw a circuit as a graph, and write it for other programs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import get_args

from basisbench.commands.options import Commands, absolute, add_command, add_plugin, positive, seed
from basisbench.types import Ablation


def add(commands: Commands) -> None:
    """Declare the command."""
    parser = add_command(
        commands,
        "graph",
        "draw a circuit as a graph, and write it for other programs",
        "Take the best nodes of a basis on a task, merged over aligned groups by role, and the best edges between\n"
        "them. Written are a page that opens from disk (graph.html), the layout of circuit-tracer's viewer and of\n"
        "Neuronpedia (graph.json), and GraphML (graph.graphml).",
        "examples:\n  basisbench graph sva_rc --basis mlp_act --out graph\n"
        "  basisbench graph ioi --basis transcoder --model gpt2-small --nodes 100 -k 1000 --out graph\n",
    )
    parser.add_argument("task", metavar="TASK", help="name of a task")
    parser.add_argument("--basis", metavar="BASIS", required=True, help="basis of the nodes")
    parser.add_argument("--model", metavar="MODEL", help=(
        "a listed name, ORG/NAME[@REVISION], a folder or a GGUF file (default: the model that ships with BasisBench)"
    ))  # fmt: skip
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="folder of the three files")
    parser.add_argument("--method", metavar="METHOD", default="relp", help=(
        "how edges are scored: relp, ixg, ig_inputs or path_patching, which is exact and slow (default: relp)"
    ))  # fmt: skip
    parser.add_argument("--nodes", metavar="N", type=positive, default=50, help="the best under RelP (default: 50)")
    parser.add_argument("-k", dest="count", metavar="K", type=positive, default=500, help="edges (default: 500)")
    parser.add_argument("--draws", metavar="N", type=positive, default=5, help=(
        "attribution draws behind the range of a score (default: 5)"
    ))  # fmt: skip
    parser.add_argument("--ablation", choices=get_args(Ablation), default="mean", help=(
        "reference of nodes and tokens (default: mean)"
    ))  # fmt: skip
    parser.add_argument("--examples", metavar="N", type=positive, default=100, help="pairs to make per split (100)")
    parser.add_argument("--seed", type=seed, default=0, help="seed of the pairs (default: 0)")
    add_plugin(parser)


def execute(options: argparse.Namespace) -> None:
    """Score nodes and edges, and write their graph."""
    from basisbench.attribution.edge_scores import edge_methods
    from basisbench.describe import describe_nodes
    from basisbench.errors import unknown_name
    from basisbench.explore import load_pairs, score
    from basisbench.explore_graph import graph
    from basisbench.models.load import load_model
    from basisbench.registry import load_registry
    from basisbench.report.graph_page import refuse_file, write_graph
    from basisbench.runs.model_names import find_model

    registry = load_registry(absolute(options.plugin))
    task, spec = registry.get("task", options.task), registry.get("basis", options.basis)
    if options.method not in edge_methods():
        raise unknown_name("edge method", options.method, edge_methods())
    refuse_file(options.out)
    model = load_model(find_model(options.model, registry))
    pairs = load_pairs(task, model, attribution=options.examples, evaluation=options.examples, seed=options.seed)
    scores = score(pairs, spec, registry.get("method", "relp"), ablation=options.ablation)
    nodes = describe_nodes(pairs, scores, options.nodes, draws=options.draws, basis=spec)
    found = graph(nodes, pairs, options.method, edges=options.count, basis=spec)
    page = write_graph(found, options.out)
    print(f"{len(nodes.nodes)} nodes and {len(found.edges)} of {found.scored} edges: {page}")
