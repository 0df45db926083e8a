"""What the commands' parsers share."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

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


def add_plugin(parser: argparse._ActionsContainer) -> None:
    """Add the option `--plugin`."""
    parser.add_argument("--plugin", metavar="FILE", action="append", type=Path, default=[], help=(
        "Python file whose PROVIDES holds further models, tasks, bases, methods (repeatable)"
    ))  # fmt: skip


def positive(text: str) -> int:
    """Parse a whole number of at least 1."""
    value = int(text) if text.strip().lstrip("+-").isdigit() else 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, found '{text}'")
    return value


def absolute(paths: Sequence[Path]) -> tuple[Path, ...]:
    """Make paths independent of the working directory, which a worker need not share."""
    return tuple(path.resolve() for path in paths)


def terminal_width() -> int | None:
    """Return the width of the terminal that reads our output; None where a file or another program does."""
    return shutil.get_terminal_size((0, 0)).columns or None
