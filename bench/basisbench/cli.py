"""The `basisbench` command: arguments and errors; what the commands do is in `basisbench.commands`.

Exit codes: 0 done, 2 a mistake in the input, failed cells or bad records (a line each on standard error), 130
interrupted. Any other exception is a bug and keeps its traceback.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias, get_args

from basisbench.errors import BasisBenchError
from basisbench.types import Ablation, ErrorPolicy, Granularity
from basisbench.version import __version__

DESCRIPTION = """\
BasisBench: which basis gives the sparsest faithful circuit of a language model, and at what cost?

Neurons, SAEs and transcoders, scored by several attribution methods, are compared on the same model, the same
task and the same sites. A run leaves one JSON record per cell; tables and pictures are made from records.
"""

EXAMPLES = """\
examples:
  basisbench run                                  the default suite: all tasks and bases on the pocket model
  basisbench run --task ioi --method relp         one task, one method
  basisbench list bases                           what there is
  basisbench show ioi --model pocket-llama -n 2   two pairs of a task, as the model sees them
  basisbench compare results/local                a table of the results
  basisbench plot results/local --out pictures    pictures of the results
  basisbench validate results/local               check the records, without a model

'basisbench COMMAND --help' tells more about a command.
"""

RUN_HELP = """\
Run a suite: every combination of its models, tasks, bases, methods and settings is a cell.

SUITE is a built-in name ('basisbench list suites') or a YAML file. Options replace the suite's lists; those marked
(repeatable) may be given several times. Cells that are finished in the results folder are kept, so a run that was
stopped goes on where it was; a changed setting, model, dictionary or version makes new cells.

Afterwards the comparison is printed, and written with the pictures next to the records:
  OUT/records/*.json   OUT/summary.csv   OUT/summary.md   OUT/pictures/
"""

RUN_EXAMPLES = """\
examples:
  basisbench run
  basisbench run pocket --task ioi --basis mlp_act --basis transcoder --method relp --examples 50
  basisbench run my-suite.yaml --out results/mine --device cuda --jobs 2
  basisbench run --task-file pairs.json --method relp --errors node --errors keep
  basisbench run gpt2-small --dry-run             cells, passes, memory, disk and time; nothing is loaded
  basisbench run gpt2-small --limit 6             a smoke test: six cells of 16 pairs
  basisbench run --model EleutherAI/pythia-160m --basis mlp_act --basis mlp_out --method relp
  basisbench run llama-3.1-8b --device cuda --executor ray:auto
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Args:
        arguments: the words after `basisbench`; those of the process when None.
    """
    options = build_parser().parse_args(arguments)
    try:
        from basisbench import commands

        code: int | None = getattr(commands, f"{options.command}_command")(options)
        sys.stdout.flush()
    except BasisBenchError as error:
        print(f"basisbench: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("basisbench: interrupted; finished cells are kept, the same command goes on from here", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output, for example `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return code or 0


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    parser = argparse.ArgumentParser(
        "basisbench", description=DESCRIPTION, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=f"basisbench {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    _add_run(commands)
    _add_list(commands)
    _add_show(commands)
    _add_compare(commands)
    _add_plot(commands)
    _add_validate(commands)
    _add_pin(commands)
    _add_pocket(commands)
    return parser


Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def _add(commands: Commands, name: str, help_line: str, description: str, epilog: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=help_line,
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    return parser


def _add_run(commands: Commands) -> None:
    parser = _add(commands, "run", "run a suite and print the comparison", RUN_HELP, RUN_EXAMPLES)
    parser.add_argument("suite", metavar="SUITE", nargs="?", default="pocket", help="suite to run (default: pocket)")
    what = parser.add_argument_group("what to run, instead of what the suite says")
    for option, metavar, text in (
        (
            "model",
            "MODEL",
            "model: a listed name, ORG/NAME[@REVISION] of the Hugging Face hub, or a folder (repeatable)",
        ),
        ("task", "TASK", "task (repeatable)"),
        ("basis", "BASIS", "basis (repeatable)"),
        ("method", "METHOD", "attribution method (repeatable)"),
    ):
        what.add_argument(f"--{option}", metavar=metavar, action="append", help=text)
    for option, values, text in (
        ("ablation", get_args(Ablation), "reference value of nodes outside the circuit (repeatable)"),
        ("errors", get_args(ErrorPolicy), "what happens to reconstruction errors (repeatable)"),
        ("granularity", get_args(Granularity), "whether a node has a position (repeatable)"),
    ):
        what.add_argument(f"--{option}", choices=values, action="append", help=text)
    what.add_argument("--task-file", metavar="FILE", action="append", type=Path, default=[], help=(
        "JSON lines or a JSON list of pairs (clean_prefix, patch_prefix, clean_answer, patch_answer) as a task; "
        "without --task only such tasks are run (repeatable)"
    ))  # fmt: skip
    what.add_argument("--examples", metavar="N", type=_positive, help="pairs per split and task")
    what.add_argument("--seed", type=int, help="seed of pairs, random scores and random bases")
    how = parser.add_argument_group("how to run it")
    how.add_argument("--out", metavar="DIR", type=Path, default=Path("results/local"), help=(
        "results folder (default: results/local)"
    ))  # fmt: skip
    how.add_argument("--device", default="cpu", help=(
        "cpu (default), cuda, cuda:1, mps, ...; auto spreads a model over all GPUs"
    ))  # fmt: skip
    how.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], help=(
        "type of the weights (default: the suite's or the checkpoint's); metrics are float32 in any case"
    ))  # fmt: skip
    how.add_argument("--limit", metavar="N", type=_positive, help=(
        "do at most N cells, of as many kinds as possible, with 16 pairs per split: a smoke test"
    ))  # fmt: skip
    how.add_argument("--dry-run", action="store_true", help=(
        "print cells, passes, memory, disk and time as estimates, and load nothing"
    ))  # fmt: skip
    how.add_argument("--plugin", metavar="FILE", action="append", type=Path, default=[], help=(
        "Python file whose PROVIDES holds further models, tasks, bases, methods (repeatable)"
    ))  # fmt: skip
    how.add_argument("--no-resume", action="store_true", help="run finished cells again")
    how.add_argument("--jobs", metavar="N", type=_positive, help=(
        "worker processes; each takes whole tasks, the cores are shared out (default: 2 on a CPU, 1 on a device, "
        "with Ray as many as the cluster has room for)"
    ))  # fmt: skip
    how.add_argument("--executor", metavar="WHERE", default="local", help=(
        "local (default), ray for a Ray cluster on this machine, ray:ADDRESS for a running one (ray:auto, "
        "ray:HOST:6379, ray:ray://HOST:10001)"
    ))  # fmt: skip
    for option, metavar, text in (
        ("gpus", "N", "GPUs of one Ray worker (default: 1 on a CUDA device, else 0)"),
        ("cpus", "N", "cores of one Ray worker (default: 1)"),
        ("memory", "GIB", "memory that one Ray worker reserves, in GiB (default: none)"),
    ):
        how.add_argument(f"--worker-{option}", metavar=metavar, type=float, help=text)


def _add_list(commands: Commands) -> None:
    parser = _add(
        commands,
        "list",
        "list models, tasks, bases, methods or suites",
        "List what is registered, one per line: its name and what it is.",
        "example:\n  basisbench list bases\n",
    )
    parser.add_argument("kind", choices=["models", "tasks", "bases", "methods", "suites"], help="what to list")
    _add_plugin(parser)


def _add_show(commands: Commands) -> None:
    parser = _add(
        commands,
        "show",
        "show pairs of a task as a model's tokenizer sees them",
        "Show pairs of a task: both prompts, the answers, the token counts and the role of each position, and how\n"
        "many candidate pairs were dropped and why. Only the tokenizer is loaded.",
        "example:\n  basisbench show sva_rc --model pocket-llama -n 3\n",
    )
    parser.add_argument("task", metavar="TASK", nargs="?", help="name of a task; not needed with --task-file")
    parser.add_argument("--model", metavar="MODEL", required=True, help=(
        "model whose tokenizer is used: a listed name, ORG/NAME[@REVISION], or a folder"
    ))  # fmt: skip
    parser.add_argument("-n", dest="count", metavar="N", type=_positive, default=5, help="pairs to show (default: 5)")
    parser.add_argument("--split", choices=["attribution", "evaluation"], default="evaluation", help=(
        "which split to show (default: evaluation)"
    ))  # fmt: skip
    parser.add_argument("--examples", metavar="N", type=_positive, default=100, help="pairs to make per split (100)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the pairs (default: 0)")
    parser.add_argument("--task-file", metavar="FILE", type=Path, help="show the pairs of a file")
    _add_plugin(parser)


def _add_compare(commands: Commands) -> None:
    parser = _add(
        commands,
        "compare",
        "compare bases in a table",
        "Compare bases: nodes and bits to a target faithfulness with 95% bootstrap intervals, areas, seconds, memory.\n"
        "RESULTS are results folders, folders of records, or record files.",
        "examples:\n  basisbench compare results/local\n  basisbench compare results/pocket results/mine --csv -\n"
        "  basisbench compare results/paper --reported paper\n",
    )
    parser.add_argument("results", metavar="RESULTS", nargs="+", type=Path, help="where the records are")
    parser.add_argument("--csv", metavar="FILE", help="write every column as CSV; - for standard output")
    parser.add_argument("--markdown", metavar="FILE", help="write the full tables as Markdown; - for standard output")
    parser.add_argument("--reported", metavar="SUITE", help=(
        "put the values that others reported for a suite beside ours, for example 'paper'"
    ))  # fmt: skip


def _add_plot(commands: Commands) -> None:
    parser = _add(
        commands,
        "plot",
        "draw pictures of results",
        "Draw faithfulness and completeness against circuit size, and cost against size.\n"
        "RESULTS is a results folder, a folder of records, or a record file.",
        "example:\n  basisbench plot results/local --out pictures\n",
    )
    parser.add_argument("results", metavar="RESULTS", type=Path, help="where the records are")
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="folder for the pictures")


def _add_validate(commands: Commands) -> None:
    parser = _add(
        commands,
        "validate",
        "check records without a model",
        "Check records: every field of each, the name of its file, that no cell occurs twice under one path, and that\n"
        "F(M) and F(0) are equal where they are the same number. A line per bad record goes to standard error, the\n"
        "counts to standard output; the exit code is 2 when a record is not valid. Nothing is changed.",
        "examples:\n  basisbench validate results/local\n  basisbench validate results/pocket results/mine\n",
    )
    parser.add_argument("paths", metavar="PATH", nargs="+", type=Path, help=(
        "record file, or folder that is searched for *.json at any depth; links out of it are not followed"
    ))  # fmt: skip


def _add_pin(commands: Commands) -> None:
    parser = _add(
        commands,
        "pin",
        "pin a suite's repositories to their commits",
        "Write a copy of a suite in which every repository of the Hugging Face hub, of models and of dictionaries, is\n"
        "pinned to the commit that it has now: on the hub, or in the cache where the hub cannot be reached.",
        "example:\n  basisbench pin gemma-2-2b --out gemma-2-2b.yaml\n",
    )
    parser.add_argument("suite", metavar="SUITE", help="name of a suite, or a suite file")
    parser.add_argument("--out", metavar="FILE", type=Path, required=True, help="the copy")
    _add_plugin(parser)


def _add_pocket(commands: Commands) -> None:
    parser = _add(
        commands,
        "pocket",
        "rebuild the pocket model and its dictionaries",
        "The pocket model ships with the package; 'pocket build' trains it again from its corpus.",
        "example:\n  basisbench pocket build --out my-pocket\n",
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    build = _add(
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
    build.add_argument("--seed", type=int, default=0, help="seed of the corpus and of all training (default: 0)")


def _add_plugin(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--plugin", metavar="FILE", action="append", type=Path, default=[], help=(
        "Python file whose PROVIDES holds further models, tasks, bases, methods (repeatable)"
    ))  # fmt: skip


def _positive(text: str) -> int:
    """Parse an integer of at least 1."""
    value = int(text) if text.strip().lstrip("+-").isdigit() else 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, found '{text}'")
    return value


if __name__ == "__main__":
    sys.exit(main())
