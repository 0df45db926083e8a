"""Swap nodes: set them to what they are on another prompt, and see whether the answer becomes that prompt's."""

from __future__ import annotations

import argparse
from pathlib import Path

from basisbench.commands.options import (
    Commands,
    absolute,
    add_basis_on_task,
    add_command,
    add_draws_of_controls,
    add_live_errors,
    add_pairs,
    add_plugin,
    positive,
    terminal_width,
)
from basisbench.errors import BasisBenchError


def add(commands: Commands) -> None:
    """Declare the command."""
    parser = add_command(
        commands,
        "swap",
        "set nodes to what they are on another prompt, and see whether its answer comes",
        "Take the K best nodes of a basis where the two prompts of a pair differ and behind, without the last\n"
        "position, and set them to their values on the other prompt, in a pass that is live otherwise. Told are the\n"
        "metric, how far it goes to that of the other prompt, and whose answer is likeliest among all answers of the\n"
        "task; the same of random nodes of the same layers and roles that change as much, of as many of the best\n"
        "under random and magnitude, and of all nodes there together.",
        "examples:\n  basisbench swap sva_rc --basis mlp_act\n"
        "  basisbench swap sva_rc --basis sae_mlp_out -k 10 -k 50 --role subject --json swapped.json\n"
        "  basisbench swap state_capital --model smollm2-135m-q4 --basis mlp_act -k 100 -k 1000\n",
    )
    add_basis_on_task(parser)
    parser.add_argument("-k", metavar="K", type=positive, action="append", dest="sizes", help=(
        "how many of the best nodes, by role (repeatable; default: 1, 10 and 100)"
    ))  # fmt: skip
    parser.add_argument("--role", metavar="ROLE", action="append", dest="roles", help=(
        "where nodes are swapped (repeatable): a role as `basisbench nodes` has it, a token of it, last, or all"
    ))  # fmt: skip
    parser.add_argument("--method", metavar="METHOD", default="relp", help="what ranks them (default: relp)")
    parser.add_argument("--layers", metavar="LAYERS", help="layers that nodes are of, for example 10-20 (default: all)")
    add_live_errors(parser)
    add_draws_of_controls(parser)
    parser.add_argument("--json", metavar="FILE", type=Path, help="write what was found to a file")
    add_pairs(parser)
    add_plugin(parser)


def execute(options: argparse.Namespace) -> None:
    """Swap, print tables, and write a file where asked."""
    from basisbench.explore.steps import load_pairs
    from basisbench.explore.swapping import SIZES, swap
    from basisbench.models.load import load_model
    from basisbench.registry import load_registry
    from basisbench.results.record import write_whole
    from basisbench.results.swapping import swap_tables
    from basisbench.results.tables import plain_text
    from basisbench.runs.model_names import find_model

    if options.json is not None and not options.json.resolve().parent.is_dir():
        raise BasisBenchError(f"--json {options.json}: there is no folder {options.json.resolve().parent}")
    registry = load_registry(absolute(options.plugin))
    task, spec = registry.get("task", options.task), registry.get("basis", options.basis)
    ways = [registry.get("method", name) for name in (options.method, "random", "magnitude")]
    model = load_model(find_model(options.model, registry))
    pairs = load_pairs(task, model, attribution=options.examples, evaluation=options.examples, seed=options.seed)
    found = swap(
        pairs,
        spec,
        options.sizes or SIZES,
        roles=options.roles,
        method=ways[0],
        error_policy=options.errors,
        layers=options.layers,
        draws=options.draws,
        baselines=ways[1:],
    )
    print("\n\n".join(plain_text(table, terminal_width()) for table in swap_tables(found)))
    if options.json is not None:
        write_whole(options.json, f"{found.model_dump_json(indent=1)}\n")
