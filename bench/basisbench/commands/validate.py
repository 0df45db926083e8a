"""Check records without a model."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from basisbench.commands.options import Commands, add_command


def add(commands: Commands) -> None:
    """Declare the command."""
    parser = add_command(
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


def execute(options: argparse.Namespace) -> int:
    """Check records; print a line per bad one and the counts.

    Returns:
        The exit code: 2 when a record is not valid.
    """
    from basisbench.validate import validate

    report = validate(options.paths)
    for line in report.lines():
        print(line, file=sys.stderr)
    print(report.counts())
    return 2 if report.problems else 0
