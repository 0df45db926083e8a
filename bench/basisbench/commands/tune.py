"""Fine-tune a language model, with checkpoints on the way."""

from __future__ import annotations

import argparse
import importlib
import math
import shlex
import sys
from pathlib import Path

from basisbench.commands.options import Commands, absolute, add_command, add_plugin
from basisbench.commands.train import add_sources, check_reading, count, counts, read_sources
from basisbench.errors import BasisBenchError


def add(commands: Commands) -> None:
    """Declare the command."""
    parser = add_command(
        commands,
        "tune",
        "fine-tune a model, with checkpoints on the way",
        "Fine-tune a language model on text (AdamW, in float32) and write it as it is after some counts of tokens,\n"
        "each a folder in Hugging Face's format: do its neurons, and dictionaries trained before, still serve?\n"
        "A tuning that is stopped goes on from its last checkpoint when the same command is given again.",
        "examples:\n"
        "  basisbench tune pocket-llama --text shifted.txt --tokens 300k --snapshots 30k,100k --out tuned\n"
        "  basisbench run --model pocket-llama --model tuned-300k=tuned/300000 --basis mlp_act --basis sae_mlp_out\n",
    )
    parser.add_argument("model", metavar="MODEL", help="a listed name, ORG/NAME[@REVISION], a folder or a GGUF file")
    add_sources(parser)
    parser.add_argument("--tokens", metavar="N", type=count, required=True, help=(
        "tokens of text, for example 500k or 4M"
    ))  # fmt: skip
    parser.add_argument("--snapshots", metavar="N,N", type=counts, default=(), help=(
        "counts of tokens after which the model is written too, for example 30k,100k"
    ))  # fmt: skip
    parser.add_argument("--learning-rate", metavar="RATE", type=_rate, default=5e-5, help=(
        "of AdamW, after a short warm-up (default: 5e-5)"
    ))  # fmt: skip
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="folder for the checkpoints")
    parser.add_argument("--seed", type=int, default=0, help="of the order of the text (default: 0)")
    parser.add_argument("--device", default="cpu", help="torch device, for example cuda (default: cpu)")
    add_plugin(parser)


def execute(options: argparse.Namespace) -> None:
    """Tune, or go on with a tuning."""
    from basisbench.models.load import load_model
    from basisbench.registry import load_registry
    from basisbench.runs.model_names import find_model

    if not (options.text or options.dataset):
        raise BasisBenchError("nothing to read: give --text FILE... or --dataset HUB")
    check_reading(options)
    # Steps of this size are lost in half precision.
    model = load_model(
        find_model(options.model, load_registry(absolute(options.plugin))), device=options.device, dtype="float32"
    )
    # By name: the harness never imports the baselines statically, so that they stay replaceable.
    settings = importlib.import_module("basisbench_baselines.training.settings").TuningSettings(
        tokens=options.tokens,
        snapshots=tuple(sorted(set(options.snapshots))),
        seed=options.seed,
        learning_rate=options.learning_rate,
    )
    text = read_sources(options, model, settings)
    importlib.import_module("basisbench_baselines.training.tune").tune(
        model, text, settings, options.out, command=shlex.join(["basisbench", *sys.argv[1:]])
    )
    named = shlex.quote(f"tuned={options.out}/{options.tokens}")
    print(f"checkpoints and their card are in {options.out}; basisbench run --model {named}")


def _rate(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"expected a learning rate such as 5e-5, found '{text}'")
    return value
