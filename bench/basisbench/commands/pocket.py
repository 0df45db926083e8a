"""Train the pocket model and its dictionaries again."""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path

from basisbench.commands.options import Commands, add_command, seed
from basisbench.errors import BasisBenchError


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
        "examples:\n"
        "  basisbench pocket build --out my-pocket --seed 1\n"
        "  basisbench pocket build --out my-pocket-again --model-of my-pocket --dictionary-seed 1\n",
    )
    build.add_argument(
        "--out", metavar="DIR", type=Path, required=True, help="folder for the model and its dictionaries"
    )
    build.add_argument("--seed", type=seed, help="seed of the corpus and of all training (default: 0)")
    build.add_argument("--architecture", choices=["llama", "gpt2"], help="what blocks are made of (default: llama)")
    build.add_argument(
        "--dictionary-seed", metavar="N", type=seed, help="seed of the training of dictionaries (default: that of all)"
    )
    build.add_argument(
        "--model-of",
        metavar="DIR",
        nargs="?",
        const="",
        help="take the model of a finished build, of the shipped one without DIR, and train its dictionaries anew",
    )


def execute(options: argparse.Namespace) -> None:
    """Train the pocket model and its dictionaries."""
    # By name: the harness never imports the baselines statically, so that they stay replaceable.
    build = importlib.import_module("basisbench_baselines.pocket.build")
    if options.model_of is None:
        build.build(
            out=options.out,
            seed=options.seed or 0,
            architecture=options.architecture or "llama",
            dictionary_seed=options.dictionary_seed,
        )
        return
    if options.seed is not None or options.architecture is not None:
        raise BasisBenchError("--model-of: --seed and --architecture are those of the model; drop them")
    if options.dictionary_seed is None:
        raise BasisBenchError("--model-of: --dictionary-seed is missing; it makes these dictionaries other ones")
    shipped = importlib.import_module("basisbench_baselines.pocket").ASSETS
    folder = Path(options.model_of) if options.model_of else shipped
    build.train_dictionaries_again(options.out, folder, seed=options.dictionary_seed)
