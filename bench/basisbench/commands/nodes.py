"""Show the nodes of circuits: what they read, write and do, and what circuits have in common."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

from basisbench.commands.options import Commands, add_command, add_plugin, positive, seed, terminal_width
from basisbench.errors import BasisBenchError

if TYPE_CHECKING:
    from basisbench.explore.steps import NodeScores
    from basisbench.protocols import BasisSpec, Method
    from basisbench.results.circuit_nodes import CircuitNodes
    from basisbench.results.tables import Table
    from basisbench.runs.session import Session


def add(commands: Commands) -> None:
    """Declare the command."""
    parser = add_command(
        commands,
        "nodes",
        "show the nodes of circuits",
        "Show the best nodes of a circuit, merged over aligned groups by role: scores with their range over draws\n"
        "of the attribution pairs, values on clean and counterfactual prompts, the direct effect on the metric, the\n"
        "words that a node raises and lowers, its public page. Of several circuits also what they share.\n"
        "With RESULTS no model is loaded: the nodes that records name (20 each, over all aligned groups), by role.\n"
        "With --truth, of a model whose circuit is known because it was built, how high its true nodes stand.",
        "examples:\n  basisbench nodes --task sva_rc --basis mlp_act\n"
        "  basisbench nodes --task sva_rc --basis transcoder --method relp --method gim -k 30 --json nodes.json\n"
        "  basisbench nodes results/pocket --task ioi --plot nodes.png\n"
        "  basisbench nodes --truth --model known-neurons --task known_kind --basis mlp_act --method relp\n",
    )
    parser.add_argument("results", metavar="RESULTS", nargs="*", type=Path, help="where records are; none: run a model")
    parser.add_argument("--model", metavar="MODEL", action="append", default=[], help=(
        "model to run: a listed name, ORG/NAME[@REVISION], a folder or a GGUF file (repeatable: one and what it became "
        "by tuning; default: the one that ships)"
    ))  # fmt: skip
    parser.add_argument("--task", metavar="NAME", action="append", default=[], help="task (repeatable)")
    parser.add_argument("--basis", metavar="NAME", action="append", default=[], help="basis (repeatable)")
    parser.add_argument("--method", metavar="NAME", action="append", default=[], help="method (repeatable; relp)")
    parser.add_argument("-k", metavar="N", type=positive, default=20, help="nodes of each circuit (default: 20)")
    parser.add_argument("--draws", metavar="N", type=positive, default=5, help=(
        "attribution draws behind the range of a score (default: 5)"
    ))  # fmt: skip
    parser.add_argument("--seed", metavar="N", type=seed, action="append", default=[], help=(
        "seed of the pairs (repeatable; default: 0)"
    ))  # fmt: skip
    parser.add_argument("--examples", metavar="N", type=positive, default=100, help="attribution pairs (default: 100)")
    parser.add_argument("--json", metavar="FILE", help="write everything, prompts included; - for standard output")
    parser.add_argument("--csv", metavar="FILE", help="write a row per node; - for standard output")
    parser.add_argument("--plot", metavar="FILE", type=Path, help=(
        "draw the circuits by layer and role: NAME.png, .svg or .pdf"
    ))  # fmt: skip
    parser.add_argument("--truth", action="store_true", help=(
        "in place of the nodes: AUROC and precision of the scores against the nodes that compute the answer"
    ))  # fmt: skip
    add_plugin(parser)


def execute(options: argparse.Namespace) -> None:
    """Print the nodes of circuits, and write them where asked."""
    import json

    from basisbench.plots.node_map import plot_node_map
    from basisbench.plots.save import refuse_name, save_figure
    from basisbench.results.circuit_nodes import node_table, nodes_csv
    from basisbench.results.overlap import overlap_table
    from basisbench.results.record import write_whole
    from basisbench.results.tables import plain_text

    if options.truth:
        print(plain_text(_agreement(options), terminal_width()))
        return
    refuse_name(options.plot, "--plot")
    found = list(_of_records(options) if options.results else _of_model(options))
    if options.plot:
        save_figure(plot_node_map(found), options.plot)
    everything = [each.model_dump(mode="json") for each in found]
    texts = {"json": f"{json.dumps(everything, indent=1, ensure_ascii=False)}\n", "csv": nodes_csv(found)}
    for kind, text in texts.items():
        if getattr(options, kind) == "-":
            print(text, end="")
        elif getattr(options, kind):
            write_whole(getattr(options, kind), text)
    if "-" in (options.json, options.csv):
        return
    tables = [node_table(each) for each in found]
    if common := overlap_table(found):
        tables.append(common)
    print("\n\n".join(plain_text(table, terminal_width()) for table in tables))


def _of_records(options: argparse.Namespace) -> Iterator[CircuitNodes]:
    from basisbench.results.circuit_nodes import of_record
    from basisbench.results.frame import read_results

    if options.model:
        raise BasisBenchError("nodes reads RESULTS or runs a --model, not both")
    chosen = {name: set(getattr(options, name)) for name in ("task", "basis", "method")}
    records = [
        record
        for record in read_results(options.results)
        if all(not names or getattr(record.cell, name) in names for name, names in chosen.items())
    ]
    if not records:
        wanted = ", ".join(f"{name} {' or '.join(sorted(names))}" for name, names in chosen.items() if names)
        raise BasisBenchError(f"no record of {wanted} in {', '.join(map(str, options.results))}")
    yield from map(of_record, records)


def _of_model(options: argparse.Namespace) -> Iterator[CircuitNodes]:
    from basisbench.explore.nodes import describe_nodes

    for pairs, basis, method, scores in _scored(options):
        yield describe_nodes(pairs, scores, options.k, draws=options.draws, basis=basis, method=method)


def _agreement(options: argparse.Namespace) -> Table:
    """Score a model that was built, and compare each basis and method with the truth."""
    from basisbench.explore.truth import agreement_table

    if options.results or options.json or options.csv or options.plot:
        raise BasisBenchError("nodes --truth runs a model and prints a table; it takes no RESULTS, and writes no file")
    return agreement_table([(pairs.model.spec, scores) for pairs, _, _, scores in _scored(options)])


def _scored(options: argparse.Namespace) -> Iterator[tuple[Session, BasisSpec, Method, NodeScores]]:
    """Run a model: yield the scores of each task, seed, basis and method."""
    if not (options.task and options.basis):
        raise BasisBenchError("nodes needs RESULTS, or --task NAME and --basis NAME to run a model; see --help")
    from basisbench.explore.steps import load_pairs, score
    from basisbench.models.load import load_model
    from basisbench.registry import load_registry
    from basisbench.runs.model_names import find_model, find_models

    registry = load_registry(options.plugin)
    tasks = [registry.get("task", name) for name in options.task]
    bases = [registry.get("basis", name) for name in options.basis]
    methods = [registry.get("method", name) for name in options.method or ["relp"]]
    specs = find_models(options.model, registry, {}) or (find_model(None, registry),)
    for model in map(load_model, specs):
        for task, start in product(tasks, options.seed or [0]):
            pairs = load_pairs(task, model, attribution=options.examples, evaluation=options.examples, seed=start)
            for basis, method in product(bases, methods):
                yield pairs, basis, method, score(pairs, basis, method)
