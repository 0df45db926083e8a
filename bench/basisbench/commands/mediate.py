"""Mediate: what part of a response's shift runs through the nodes of a belief, with controls."""

from __future__ import annotations

import argparse
from pathlib import Path

from basisbench.commands.options import (
    Commands,
    absolute,
    add_basis,
    add_command,
    add_device,
    add_live_errors,
    add_pairs,
    add_plugin,
    positive,
    sizes,
    terminal_width,
)
from basisbench.errors import refuse_file


def add(commands: Commands) -> None:
    """Declare the command."""
    parser = add_command(
        commands,
        "mediate",
        "measure what part of a response runs through the nodes of a belief",
        "Two tasks put the same words of the same users in front of two continuations: one states what the model\n"
        "believes of the user, the other responds. How far does the response shift with the user's cue, and how much\n"
        "of the shift comes when the best nodes of the belief alone take the values of the counterfactual user? The\n"
        "same of random nodes of the same layers and positions, of random ones of like change, and of the response's\n"
        "own best. No share is given where the shift is not told from none.",
        "examples:\n"
        "  basisbench mediate --belief user_occupation_statement --response user_occupation_advice \\\n"
        "      --model smollm2-135m-q4 --basis mlp_act --examples 40 --out mediated\n"
        "  basisbench mediate --belief user_age --response user_age --basis mlp_out --sizes 10,100 --at cue\n",
    )
    parser.add_argument("--belief", metavar="TASK", required=True, help="the task that states what the model believes")
    parser.add_argument("--response", metavar="TASK", required=True, help="the task that responds to the same users")
    add_basis(parser)
    parser.add_argument("--method", metavar="METHOD", default="relp", help="what ranks nodes (default: relp)")
    parser.add_argument("--sizes", metavar="K,K", type=sizes, default=(10, 30, 100, 300), help=(
        "nodes per aligned group (default: 10,30,100,300)"
    ))  # fmt: skip
    parser.add_argument("--at", choices=["after", "cue", "header"], default="after", help=(
        "whose nodes: those of the user's turn behind the cue, of the turn from the cue on, or of all positions behind "
        "the cue up to where the frames part (default: after)"
    ))  # fmt: skip
    add_live_errors(parser)
    parser.add_argument("--draws", metavar="N", type=positive, default=10, help=(
        "draws of each kind of random nodes (default: 10)"
    ))  # fmt: skip
    parser.add_argument("--attribution-draws", metavar="N", type=positive, default=3, help=(
        "draws of attribution pairs behind the range of what circuits have in common (default: 3)"
    ))  # fmt: skip
    parser.add_argument("--other", metavar="TASK", action="append", dest="others", default=[], help=(
        "another attribute's task, for what its circuits have in common with the belief's (repeatable)"
    ))  # fmt: skip
    add_pairs(parser)
    add_device(parser)
    parser.add_argument("--out", metavar="DIR", type=Path, help=(
        "write mediation.json, mediation.csv and, where there are shares, mediation.png into a folder"
    ))  # fmt: skip
    add_plugin(parser)


def execute(options: argparse.Namespace) -> None:
    """Measure, print tables, and write files where asked."""
    from basisbench.explore.mediation import mediate
    from basisbench.explore.steps import load_pairs
    from basisbench.models.load import load_model
    from basisbench.plots.mediation import plot_mediation
    from basisbench.plots.save import save_figure
    from basisbench.registry import load_registry
    from basisbench.results.mediation import mediation_csv, mediation_tables
    from basisbench.results.record import write_whole
    from basisbench.results.tables import plain_text
    from basisbench.runs.model_names import find_model

    registry = load_registry(absolute(options.plugin))
    names = (options.belief, options.response, *options.others)
    tasks = {name: registry.get("task", name) for name in names}
    spec, way = registry.get("basis", options.basis), registry.get("method", options.method)
    if options.out is not None:
        refuse_file(options.out)
    model = load_model(find_model(options.model, registry), device=options.device, dtype=options.dtype)
    pairs = {
        name: load_pairs(task, model, attribution=options.examples, evaluation=options.examples, seed=options.seed)
        for name, task in tasks.items()
    }
    found = mediate(
        pairs[options.belief],
        pairs[options.response],
        spec,
        method=way,
        sizes=options.sizes,
        at=options.at,
        error_policy=options.errors,
        draws=options.draws,
        attribution_draws=options.attribution_draws,
        others=[pairs[name] for name in options.others],
    )
    print("\n\n".join(plain_text(table, terminal_width()) for table in mediation_tables(found)))
    if options.out is not None:
        files = ["mediation.json", "mediation.csv"]
        write_whole(options.out / files[0], f"{found.model_dump_json(indent=1)}\n")
        write_whole(options.out / files[1], mediation_csv(found))
        if found.sizes:
            files.append("mediation.png")
            save_figure(plot_mediation([found]), options.out / files[-1])
        print(f"\n{', '.join(files[:-1])} and {files[-1]} are in {options.out}")
