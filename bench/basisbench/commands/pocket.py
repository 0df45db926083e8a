"""Train the pocket model and its dictionaries again."""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path

from basisbench.commands.options import Commands, add_command, seed


def add(commands: Commands) -> None:
    """Declare the command."""
    parser = add_command(
        commands,
        "pocket",
        "rebuild the pocket model and its dictionaries",
        "The pocket model ships with the package; 'pocket build' trains it again from its corpus.",
        "example:\n  basisbench pocket build --out my-pocket\n",
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    build = add_command(
        actions,
        "build",
        "train the model and its dictionaries",
        "Make the corpus, train the model, then an SAE per site and a transcoder per layer. A build that is stopped\n"
        "goes on from its last checkpoint when it is started again with the same folder.",
        "example:\n  basisbench pocket build --out my-pocket --seed 1\n",
    )
    build.add_argument(
        "--out", metavar="DIR", type=Path, required=True, help="folder for the model and its dictionaries"
    )
    build.add_argument("--seed", type=seed, default=0, help="seed of the corpus and of all training (default: 0)")


def execute(options: argparse.Namespace) -> None:
    """Train the pocket model and its dictionaries."""
    # By name: the harness never imports the baselines statically, so that they stay replaceable.
    build = importlib.import_module("basisbench_baselines.pocket.build")
    build.build(out=options.out, seed=options.seed)
