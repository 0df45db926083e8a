"""Draw a circuit as a graph, and write it for other programs."""

from __future__ import annotations

import argparse
from pathlib import Path

from basisbench.commands.edges import scored_for_edges
from basisbench.commands.options import (
    Commands,
    add_basis_on_task,
    add_command,
    add_edge_options,
    add_pairs,
    add_plugin,
    positive,
)
from basisbench.errors import refuse_file


def add(commands: Commands) -> None:
    """Declare the command."""
    parser = add_command(
        commands,
        "graph",
        "draw a circuit as a graph, and write it for other programs",
        "Take the best nodes of a basis on a task, merged over aligned groups by role, and the best edges between\n"
        "them. Written are a page that opens from disk (graph.html), the layout of circuit-tracer's viewer and of\n"
        "Neuronpedia (graph.json), and GraphML (graph.graphml); a picture where asked.",
        "examples:\n  basisbench graph sva_rc --basis mlp_act --out graph\n"
        "  basisbench graph sva_rc --basis mlp_act --nodes 24 -k 70 --out graph --plot circuit.png\n"
        "  basisbench graph ioi --basis transcoder --model gpt2-small --nodes 100 -k 1000 --out graph\n",
    )
    add_basis_on_task(parser)
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="folder of the three files")
    parser.add_argument("--plot", metavar="FILE", type=Path, help=(
        "draw it: NAME.png, .svg or .pdf; up to some 40 nodes and 100 edges can be told apart"
    ))  # fmt: skip
    add_edge_options(parser)
    parser.add_argument("--nodes", metavar="N", type=positive, default=50, help="the best under RelP (default: 50)")
    parser.add_argument("-k", dest="count", metavar="K", type=positive, default=500, help="edges (default: 500)")
    parser.add_argument("--draws", metavar="N", type=positive, default=5, help=(
        "attribution draws behind the range of a score (default: 5)"
    ))  # fmt: skip
    add_pairs(parser)
    add_plugin(parser)


def execute(options: argparse.Namespace) -> None:
    """Score nodes and edges, and write their graph."""
    from basisbench.explore.node_graph import graph
    from basisbench.explore.nodes import describe_nodes
    from basisbench.plots.save import refuse_name, save_figure
    from basisbench.report.graph_page import write_graph
    from basisbench.report.graph_picture import plot_graph

    refuse_file(options.out, "--out names a folder for the graph")
    refuse_name(options.plot, "--plot")
    pairs, scores, spec = scored_for_edges(options)
    nodes = describe_nodes(pairs, scores, options.nodes, draws=options.draws, basis=spec)
    found = graph(nodes, pairs, options.method, edges=options.count, basis=spec)
    page = write_graph(found, options.out)
    if options.plot is not None:
        save_figure(plot_graph(found), options.plot)
    print(f"{len(nodes.nodes)} nodes and {len(found.edges)} of {found.scored} edges: {page}")
