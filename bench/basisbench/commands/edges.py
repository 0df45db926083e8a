"""Score the edges between the nodes of a circuit."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from basisbench.commands.options import (
    Commands,
    absolute,
    add_basis_on_task,
    add_command,
    add_edge_options,
    add_pairs,
    add_plugin,
    positive,
)
from basisbench.errors import BasisBenchError

if TYPE_CHECKING:
    from basisbench.explore.edge_circuits import EdgeCurve, Edges
    from basisbench.explore.steps import NodeScores
    from basisbench.protocols import BasisSpec
    from basisbench.results.bootstrap import Estimate
    from basisbench.results.edge_file import GroupEdgeList
    from basisbench.runs.session import Session


def add(commands: Commands) -> None:
    """Declare the command."""
    parser = add_command(
        commands,
        "edges",
        "score the edges between the nodes of a circuit",
        "Take the best nodes of a basis on a task, score every edge between them, from the tokens and to the logits.\n"
        "The best edges of each aligned group are printed: the effect on the metric, in logits, of moving the source\n"
        "off its clean value for this target alone. --curve measures what is left when only the k best are kept.",
        "examples:\n  basisbench edges sva_rc --basis mlp_act\n"
        "  basisbench edges sva_rc --basis transcoder --nodes 50\n"
        "  basisbench edges sva_rc --basis mlp_act -k 500 --json edges.json\n"
        "  basisbench edges sva_rc --basis mlp_act --nodes 100 --curve\n",
    )
    add_basis_on_task(parser)
    add_edge_options(parser)
    parser.add_argument("--nodes", metavar="N", type=positive, default=100, help=(
        "nodes per aligned group, the best under RelP (default: 100)"
    ))  # fmt: skip
    parser.add_argument("-k", dest="count", metavar="K", type=positive, default=20, help=(
        "edges per aligned group (default: 20)"
    ))  # fmt: skip
    parser.add_argument("--curve", action="store_true", help="measure circuits of edges on the evaluation pairs")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the k edges of each group to a file")
    add_pairs(parser)
    add_plugin(parser)


def execute(options: argparse.Namespace) -> None:
    """Score edges, print the best of each group, and what was asked for besides."""
    from basisbench.explore.edge_circuits import edges
    from basisbench.results.record import write_whole

    if options.json is not None and not options.json.resolve().parent.is_dir():
        raise BasisBenchError(f"--json {options.json}: there is no folder {options.json.resolve().parent}")
    pairs, scores, spec = scored_for_edges(options)
    circuit = scores.circuit(options.nodes)
    found = edges(circuit, pairs, options.method, basis=spec)
    listed = found.best(options.count)
    for group in listed.groups:
        print(f"group {group.group}: {len(group.nodes)} nodes, {group.possible} edges, {group.scored} with a score")
        for line in _lines(group):
            print(f"  {line}")
        print()
    cost = found.cost
    print(
        f"scored in {cost.seconds:.1f} s: {cost.forward_equivalents:,.0f} forward passes of a prompt (a backward pass "
        f"counts as two), peak memory {cost.peak_bytes / 2**20:,.0f} MiB of the {cost.device}"
    )
    if options.json is not None:
        write_whole(options.json, f"{listed.model_dump_json(indent=1)}\n")
    if options.curve:
        for line in _curve_lines(found, found.curve(pairs)):
            print(line)


def scored_for_edges(options: argparse.Namespace) -> tuple[Session, NodeScores, BasisSpec]:
    """Return pairs, the scores of their nodes under RelP, and the basis; unknown names are refused before any work."""
    from basisbench.attribution.edge_scores import EDGE_METHODS
    from basisbench.errors import unknown_name
    from basisbench.explore.steps import load_pairs, score
    from basisbench.models.load import load_model
    from basisbench.registry import load_registry
    from basisbench.runs.model_names import find_model

    registry = load_registry(absolute(options.plugin))
    task, spec = registry.get("task", options.task), registry.get("basis", options.basis)
    if options.method not in EDGE_METHODS:
        raise unknown_name("edge method", options.method, EDGE_METHODS)
    model = load_model(find_model(options.model, registry))
    pairs = load_pairs(task, model, attribution=options.examples, evaluation=options.examples, seed=options.seed)
    return pairs, score(pairs, spec, registry.get("method", "relp"), ablation=options.ablation), spec


def _lines(group: GroupEdgeList) -> Iterator[str]:
    """Yield a line for each edge: score, source, target."""

    def named(end: str) -> str:
        kind, _, place = end.partition(":")
        if kind == "token":
            return f"token {place} ({group.roles[int(place)]})"
        if kind == "logits":
            return "logits"
        node = group.nodes[int(place)]
        unit = f"unit {node.unit}" if node.unit != "error" else f"error {node.coordinate}"
        return f"layer {node.layer}, {node.role} (token {node.position}), {unit}"

    for edge in group.edges:
        yield f"{edge.score:8.3f}  {named(edge.source)} -> {named(edge.target)}"


def _curve_lines(found: Edges, curve: EdgeCurve) -> Iterator[str]:
    def told(value: Estimate) -> str:
        return f"{value.value:7.2f} [{value.low:.2f}, {value.high:.2f}]" if value.value == value.value else ""

    yield f"{'edges':>8}  {'faithfulness':<22}  completeness"
    rows = zip(curve.sizes, curve.faithfulness, curve.completeness, strict=True)
    for size, faithfulness, completeness in rows:
        yield f"{size:>8}  {told(faithfulness):<22}  {told(completeness)}".rstrip()
    for percent in (80, 90):
        to = curve.edges_to(percent)
        reached = f"{to.value:.0f} [{to.low:.0f}, {to.high:.0f}]" if to.value < float("inf") else "not reached"
        yield f"edges to {percent}%: {reached}, between {found.circuit.k} nodes per group"
    if curve.gate.reason:
        yield f"below a gate: {curve.gate.reason}"
