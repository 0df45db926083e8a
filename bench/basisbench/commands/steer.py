"""Steer nodes: move them by doses, and measure what the model does, with controls."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import get_args

from basisbench.commands.options import (
    Commands,
    absolute,
    add_basis_on_task,
    add_command,
    add_device,
    add_draws_of_controls,
    add_live_errors,
    add_plugin,
    positive,
    seed,
    terminal_width,
)
from basisbench.errors import BasisBenchError, refuse_file
from basisbench.types import Ablation


def add(commands: Commands) -> None:
    """Declare the command."""
    parser = add_command(
        commands,
        "steer",
        "move nodes by doses, and measure what the model does, with controls",
        "Scale, set, add to or ablate nodes of a basis in a pass that is live otherwise: named ones, or the K best.\n"
        "At each dose: the metric and the next token on the task's evaluation pairs; the same of random nodes of the\n"
        "same layers and roles and of like activation, and of as many of the best under random and magnitude; what\n"
        "becomes of other tasks and of text. That these nodes cause it is said only outside the controls' interval.",
        "examples:\n  basisbench steer sva_rc --basis mlp_act -k 1\n"
        "  basisbench steer sva_rc --basis mlp_act --node 3:clause_verb:74 --doses -3 0 3 --out steered\n"
        "  basisbench steer sva_rc --basis sae_mlp_out -k 10 --operation ablate --text novel.txt\n"
        "  basisbench steer sva_rc --basis sae_mlp_out --node '3:last:error 7' --operation add --doses 0 2 4 \\\n"
        "      --prompt 'The knights that the engineer respects' --at last\n",
    )
    add_basis_on_task(parser)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--node", metavar="LAYER:ROLE:UNIT", action="append", dest="nodes", help=(
        "a node (repeatable); UNIT may be 'error N'; ROLE as `basisbench nodes` has it, or last, or all"
    ))  # fmt: skip
    which.add_argument("-k", metavar="K", type=positive, default=1, help="the K best nodes by role (default: 1)")
    parser.add_argument("--method", metavar="METHOD", default="relp", help="what ranks them (default: relp)")
    parser.add_argument("--operation", choices=["scale", "set", "add", "ablate"], default="scale", help=(
        "what a dose d makes of a value f: d f, d, f + d, or f + d (reference - f) (default: scale)"
    ))  # fmt: skip
    parser.add_argument("--doses", metavar="D", type=float, nargs="+", help=(
        "doses (default: -3 -1 0 .5 1 2 3 to scale, 0 .25 .5 .75 1 to ablate)"
    ))  # fmt: skip
    parser.add_argument("--ablation", choices=get_args(Ablation), default="mean", help="the reference (default: mean)")
    add_live_errors(parser)
    add_draws_of_controls(parser)
    parser.add_argument("--other", metavar="TASK", action="append", dest="others", help=(
        "another task to measure (repeatable; default: one of each other file of tasks)"
    ))  # fmt: skip
    parser.add_argument("--text", metavar="FILE", type=Path, help=(
        "plain text for KL per token (default: the evaluation prompts of the other tasks)"
    ))  # fmt: skip
    parser.add_argument("--prompt", metavar="TEXT", action="append", dest="prompts", default=[], help=(
        "tell the next token of a prompt at each dose (repeatable)"
    ))  # fmt: skip
    parser.add_argument("--prompts", metavar="FILE", type=Path, dest="prompt_file", help="prompts, a line each")
    parser.add_argument("--at", choices=["all", "last"], default="all", help=(
        "where units are moved on other tasks, text and prompts, which have no roles: at all positions behind a "
        "beginning-of-sequence token, or at the last (default: all)"
    ))  # fmt: skip
    parser.add_argument("--examples", metavar="N", type=positive, default=100, help="pairs to make per split (100)")
    parser.add_argument("--seed", type=seed, default=0, help="seed of pairs and draws (default: 0)")
    add_device(parser)
    parser.add_argument("--out", metavar="DIR", type=Path, help=(
        "write steering.json, steering.csv and steering.png into a folder"
    ))  # fmt: skip
    add_plugin(parser)


def execute(options: argparse.Namespace) -> None:
    """Steer, print tables, and write files where asked."""
    from basisbench.explore.steering import steer
    from basisbench.explore.steps import load_pairs
    from basisbench.models.load import load_model
    from basisbench.plots.save import save_figure
    from basisbench.plots.steering import plot_steering
    from basisbench.registry import load_registry
    from basisbench.results.record import write_whole
    from basisbench.results.steering import steering_csv, steering_tables
    from basisbench.results.tables import plain_text
    from basisbench.runs.model_names import find_model

    registry = load_registry(absolute(options.plugin))
    task, spec = registry.get("task", options.task), registry.get("basis", options.basis)
    ways = [registry.get("method", name) for name in (options.method, "random", "magnitude")]
    others = None if options.others is None else [registry.get("task", name) for name in options.others]
    if options.out is not None:
        refuse_file(options.out)
    prompts = [*options.prompts, *_lines(options.prompt_file)]
    model = load_model(find_model(options.model, registry), device=options.device, dtype=options.dtype)
    pairs = load_pairs(task, model, attribution=options.examples, evaluation=options.examples, seed=options.seed)
    found = steer(
        pairs,
        spec,
        options.nodes or options.k,
        options.operation,
        options.doses,
        method=ways[0],
        ablation=options.ablation,
        error_policy=options.errors,
        draws=options.draws,
        baselines=ways[1:],
        others=others,
        text=options.text,
        prompts=prompts,
        at=options.at,
    )
    print("\n\n".join(plain_text(table, terminal_width()) for table in steering_tables(found)))
    if options.out is not None:
        write_whole(options.out / "steering.json", f"{found.model_dump_json(indent=1)}\n")
        write_whole(options.out / "steering.csv", steering_csv(found))
        save_figure(plot_steering(found, registry.display()), options.out / "steering.png")
        print(f"\nsteering.json, steering.csv and steering.png are in {options.out}")


def _lines(path: Path | None) -> list[str]:
    if path is None:
        return []
    from basisbench.pairs.plain_text import read_text

    lines = [line for line in read_text(path, f"--prompts {path}").splitlines() if line.strip()]
    if not lines:
        raise BasisBenchError(f"--prompts {path}: it has no prompts")
    return lines
