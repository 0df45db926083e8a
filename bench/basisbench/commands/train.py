"""Train dictionaries for a model."""

from __future__ import annotations

import argparse
import importlib
import math
import re
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from basisbench.commands.options import Commands, absolute, add_command, add_plugin, positive
from basisbench.errors import BasisBenchError, unknown_name
from basisbench.models.sites import SITES

if TYPE_CHECKING:
    from basisbench.models.model import Model

KINDS = ("sae", "transcoder", "skip-transcoder", "clt")
_MULTIPLES = {"": 1, "k": 10**3, "M": 10**6, "B": 10**9}


def add(commands: Commands) -> None:
    """Declare the command."""
    parser = add_command(
        commands,
        "train",
        "train dictionaries for a model",
        "Train sparse dictionaries for some layers of a model, all in one pass over the text, with SAELens's trainer.\n"
        "They are written in SAELens's format, measured on held-out text, with a card beside them. A training that is\n"
        "stopped goes on from its last checkpoint when the same command is given again.",
        "examples:\n"
        "  basisbench train smollm2-135m-q4 --layers 10-19 --tokens 2M --text book.txt --out my-saes\n"
        "  basisbench train gpt2-small --kind sae --kind transcoder --tokens 500k --samples --out mine\n"
        "  basisbench run --model gpt2-small --basis sae:mine/sae --basis mlp_out\n",
    )
    parser.add_argument("model", metavar="MODEL", help="a listed name, ORG/NAME[@REVISION], a folder or a GGUF file")
    parser.add_argument("--kind", metavar="KIND", action="append", help=(
        f"{', '.join(KINDS)} (repeatable; default: sae)"
    ))  # fmt: skip
    parser.add_argument("--site", metavar="SITE", default="mlp_out", help="where they write (default: mlp_out)")
    parser.add_argument("--layers", metavar="LAYERS", help="for example 10-19 or 0,4,8-10 (default: all)")
    parser.add_argument("--width", metavar="W", type=_width, default="4x", help="units: a number, or 4x for four times "
        "the width of what is read (default: 4x)")  # fmt: skip
    parser.add_argument("--k", metavar="K", type=positive, default=32, help="active units per token (default: 32)")
    parser.add_argument("--tokens", metavar="N", type=count, default="4M", help=(
        "tokens of text, for example 500k or 4M (default: 4M)"
    ))  # fmt: skip
    parser.add_argument("--snapshots", metavar="N,N", type=counts, default=(), help=(
        "counts of tokens after which dictionaries are written too, for example 500k,1M,2M"
    ))  # fmt: skip
    add_sources(parser)
    parser.add_argument("--samples", metavar="N", nargs="?", type=count, const=0, help=(
        "the model's own samples: N of the tokens beside --text or --dataset, else all"
    ))  # fmt: skip
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="folder for the dictionaries")
    parser.add_argument("--seed", type=int, default=0, help="everything random is drawn from it (default: 0)")
    parser.add_argument("--device", default="cpu", help="torch device, for example cuda (default: cpu)")
    parser.add_argument(
        "--dtype", metavar="TYPE", help="type of the model's weights, for example bfloat16 (default: its own)"
    )
    add_plugin(parser)


def execute(options: argparse.Namespace) -> None:
    """Train, or go on with a training."""
    from basisbench.models.load import load_model
    from basisbench.models.weights import DTYPES
    from basisbench.registry import load_registry
    from basisbench.runs.model_names import find_model

    kinds = tuple(dict.fromkeys(options.kind or ["sae"]))
    _check_kinds(kinds, options.site)
    if options.dtype is not None and options.dtype not in DTYPES:
        raise unknown_name("type", options.dtype, DTYPES)
    _check_sources(options)
    check_reading(options)
    model = load_model(
        find_model(options.model, load_registry(absolute(options.plugin))), device=options.device, dtype=options.dtype
    )
    # By name: the harness never imports the baselines statically, so that they stay replaceable.
    settings = importlib.import_module("basisbench_baselines.training.settings").Settings(
        kinds=kinds,
        site=options.site,
        layers=parse_layers(options.layers, model.layers),
        width=options.width,
        k=options.k,
        tokens=options.tokens,
        snapshots=tuple(sorted(set(options.snapshots))),
        seed=options.seed,
    )
    text = _text(options, model, settings)
    importlib.import_module("basisbench_baselines.training.train").train(
        model, text, settings, options.out, command=shlex.join(["basisbench", *sys.argv[1:]])
    )
    folder = shlex.quote(f"{'clt' if kinds[0] == 'clt' else 'sae'}:{options.out}/{kinds[0]}")
    print(
        f"dictionaries and their card are in {options.out}; "
        f"basisbench run --model {shlex.quote(options.model)} --basis {folder}"
    )


def add_sources(parser: argparse.ArgumentParser) -> None:
    """Declare where text comes from."""
    text = parser.add_mutually_exclusive_group()
    text.add_argument("--text", metavar="FILE", nargs="+", type=Path, help="UTF-8 text files")
    text.add_argument("--dataset", metavar="HUB", help="a data set of the Hugging Face hub with a column 'text'")


def check_reading(options: argparse.Namespace) -> None:
    """Refuse snapshots, a seed or text files that cannot be.

    Raises:
        BasisBenchError: the first of them.
    """
    if late := [tokens for tokens in options.snapshots if tokens >= options.tokens]:
        raise BasisBenchError(f"--snapshots {late[0]}: not before the end of the training, --tokens {options.tokens}")
    if options.seed < 0:
        raise BasisBenchError(f"--seed {options.seed}: expected a whole number of at least 0")
    for file in options.text or ():
        if not file.is_file():
            raise BasisBenchError(
                f"--text {file}: {'is a folder' if file.is_dir() else 'no such file'}; expected a text file"
            )


def read_sources(options: argparse.Namespace, model: Model, settings: Any, besides: int = 0) -> Any:
    """Return the text of files or of a data set, packed for a model.

    Args:
        options: with `text` or `dataset`.
        model: whose tokenizer reads it.
        settings: how much is read, and in what pieces.
        besides: contexts to train on that come from elsewhere.
    """
    sources = importlib.import_module("basisbench_baselines.training.text")
    progress = importlib.import_module("basisbench_baselines.training.progress").Progress()
    if options.text:
        # Names alone: this stands in the card and in every record, and whose folders they lay in is nobody's business.
        names = ", ".join(file.name for file in options.text[:3]) + (", ..." if len(options.text) > 3 else "")
        documents, source = sources.read_files(options.text), f"--text {names}"
    else:
        documents, source = sources.read_dataset(options.dataset), f"--dataset {options.dataset}"
    return sources.pack(
        source,
        documents,
        model.tokenizer,
        settings,
        all_of_it=bool(options.text),
        besides=besides,
        progress=progress,
    )


def _text(options: argparse.Namespace, model: Model, settings: Any) -> Any:
    """Return what is read: files, a data set or samples, or one of the first two with some samples among it."""
    own = importlib.import_module("basisbench_baselines.training.samples")
    if not (options.text or options.dataset):
        return own.Samples(model, settings, settings.contexts + settings.held_out_contexts)
    contexts = math.ceil((options.samples or 0) / settings.context)
    text = read_sources(options, model, settings, contexts)
    return own.Mixed(text, own.Samples(model, settings, contexts), contexts) if contexts else text


def _check_sources(options: argparse.Namespace) -> None:
    beside = bool(options.text or options.dataset)
    if not beside and options.samples is None:
        raise BasisBenchError("nothing to read: give --text FILE..., --dataset HUB or --samples")
    if beside and options.samples is not None and not 0 < options.samples < options.tokens:
        raise BasisBenchError(
            f"--samples beside {'--text' if options.text else '--dataset'}: say how many of the {options.tokens:,} "
            f"tokens are samples, for example --samples {max(1, options.tokens // 10)}"
        )
    if not beside and options.samples:
        raise BasisBenchError(
            f"--samples {options.samples}: without --text or --dataset all tokens are samples; give --samples"
        )


def _check_kinds(kinds: tuple[str, ...], site: str) -> None:
    for kind in kinds:
        if kind not in KINDS:
            raise unknown_name("kind of dictionary", kind, KINDS)
    written = [name for name, entry in SITES.items() if entry.family is not None]
    if site not in written:
        raise unknown_name("site to write to", site, written)
    if site != "mlp_out" and (across := [kind for kind in kinds if kind != "sae"]):
        raise BasisBenchError(
            f"--kind {across[0]} --site {site}: a transcoder goes from mlp_in to mlp_out; --site mlp_out"
        )


def parse_layers(text: str | None, layers: int) -> tuple[int, ...]:
    """Return the layers that a text names, in order; all where it is None.

    Args:
        text: for example "10-19" or "0,4,8-10".
        layers: how many the model has.

    Raises:
        BasisBenchError: it is no such text, or names a layer that the model lacks.
    """
    from basisbench.runs.suite import layers_in

    if text is None:
        return tuple(range(layers))
    try:
        found = sorted(set(layers_in(text)))
    except ValueError as error:
        raise BasisBenchError(f"--layers {text}: {error}") from error
    if found[-1] >= layers:
        raise BasisBenchError(f"--layers {text}: the model has no layer {found[-1]}; it has 0 to {layers - 1}")
    return tuple(found)


def count(text: str) -> int:
    """Parse a count of tokens such as 500k, 4M or 1.5M."""
    match = re.fullmatch(r"(\d{1,15}(?:\.\d{1,9})?)([kMB]?)", text.strip())
    value = round(float(match[1]) * _MULTIPLES[match[2]]) if match else 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a count such as 500k or 4M, found '{text}'")
    return value


def counts(text: str) -> tuple[int, ...]:
    """Parse counts of tokens with commas between."""
    return tuple(count(part) for part in text.split(","))


def _width(text: str) -> str:
    if not re.fullmatch(r"0*[1-9]\d{0,7}|(?=.*[1-9])\d{1,4}(\.\d{1,4})?x", text):
        raise argparse.ArgumentTypeError(f"expected a number of units, or a multiple such as 4x, found '{text}'")
    return text
