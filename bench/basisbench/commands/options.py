"""What the commands' parsers share."""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias, get_args

from basisbench.types import Ablation

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def add_command(
    commands: Commands, name: str, help_line: str, description: str, epilog: str
) -> argparse.ArgumentParser:
    """Add a command, or an action of a command, whose texts are printed as they stand.

    Args:
        commands: where it is added.
        name: what the user types.
        help_line: one line for the page of all commands.
        description: what it does, above its arguments.
        epilog: examples, below them.
    """
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=help_line,
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    return parser


def add_basis_on_task(parser: argparse.ArgumentParser) -> None:
    """Add the arguments `TASK`, `--basis` and `--model` of a command that runs one basis on one task."""
    parser.add_argument("task", metavar="TASK", help="name of a task")
    add_basis(parser)


def add_basis(parser: argparse.ArgumentParser) -> None:
    """Add the options `--basis` and `--model` of a command that runs one basis."""
    parser.add_argument("--basis", metavar="BASIS", required=True, help="basis of the nodes")
    parser.add_argument("--model", metavar="MODEL", help=(
        "a listed name, ORG/NAME[@REVISION], a folder or a GGUF file (default: the model that ships with BasisBench)"
    ))  # fmt: skip


def add_live_errors(parser: argparse.ArgumentParser) -> None:
    """Add the option `--errors` of a command that moves nodes in a pass that is live otherwise."""
    parser.add_argument("--errors", choices=["coordinates", "rotated", "keep"], default="coordinates", help=(
        "which coordinates of a dictionary's error are nodes; all are live (default: coordinates)"
    ))  # fmt: skip


def add_draws_of_controls(parser: argparse.ArgumentParser) -> None:
    """Add the option `--draws` of controls whose smallest and largest are an interval."""
    parser.add_argument("--draws", metavar="N", type=positive, default=39, help=(
        "draws of random nodes like the chosen ones; 39 or more give a 95%% interval (default: 39)"
    ))  # fmt: skip


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add the options `--device` and `--dtype`."""
    parser.add_argument(
        "--device", metavar="DEVICE", default="cpu", help="torch device, for example cuda (default: cpu)"
    )
    parser.add_argument("--dtype", metavar="TYPE", help="type of the weights, for example bfloat16")


def add_edge_options(parser: argparse.ArgumentParser) -> None:
    """Add the options `--method` and `--ablation` of edges."""
    parser.add_argument("--method", metavar="METHOD", default="relp", help=(
        "how edges are scored: relp, ixg, ig_inputs or path_patching, which is exact and slow (default: relp)"
    ))  # fmt: skip
    parser.add_argument("--ablation", choices=get_args(Ablation), default="mean", help=(
        "reference of nodes and tokens (default: mean)"
    ))  # fmt: skip


def add_pairs(parser: argparse.ArgumentParser) -> None:
    """Add the options `--examples` and `--seed`."""
    parser.add_argument("--examples", metavar="N", type=positive, default=100, help="pairs to make per split (100)")
    parser.add_argument("--seed", type=seed, default=0, help="seed of the pairs (default: 0)")


def add_plugin(parser: argparse._ActionsContainer) -> None:
    """Add the option `--plugin`."""
    parser.add_argument("--plugin", metavar="FILE", action="append", type=Path, default=[], help=(
        "Python file whose PROVIDES holds further models, tasks, bases, methods (repeatable)"
    ))  # fmt: skip


def positive(text: str) -> int:
    """Parse a whole number from 1 to a million."""
    return _whole(text, 1, 10**6)


def sizes(text: str) -> tuple[int, ...]:
    """Parse circuit sizes such as `20,100`."""
    return tuple(positive(part) for part in text.split(","))


def seed(text: str) -> int:
    """Parse a seed: a whole number that a record can hold."""
    return _whole(text, -(2**53), 2**53)


def _whole(text: str, least: int, most: int) -> int:
    try:
        value = int(text)
    except ValueError:  # of text, and of thousands of digits
        value = most + 1
    if not least <= value <= most:
        raise argparse.ArgumentTypeError(f"expected a whole number from {least} to {most}, found '{text:.30}'")
    return value


def absolute(paths: Sequence[Path]) -> tuple[Path, ...]:
    """Make paths independent of the working directory, which a worker need not share."""
    return tuple(path.resolve() for path in paths)


def terminal_width() -> int | None:
    """Return the width of the terminal that reads our output; None where a file or another program does."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None
