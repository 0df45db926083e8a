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
        "Check records: every field of each, its numbers against each other, its size, its costs, its file's name;\n"
        "that no cell occurs twice under one path, and that F(M) and F(0) are equal where they are the same number.\n"
        "Of a submission also its metadata, the hashes of its records, and that nothing else lies in its folder.\n"
        "A line per bad file goes to standard error, the counts to standard output; the exit code is 2 when a file is\n"
        "not valid. Nothing is changed, and nothing that a file names is loaded.",
        "examples:\n  basisbench validate results/local\n  basisbench validate results/submissions/mine\n"
        "  basisbench validate mine --reference results/pocket\n",
    )
    parser.add_argument("paths", metavar="PATH", nargs="+", type=Path, help=(
        "record file, or folder that is searched for *.json at any depth; links out of it are not followed, and its "
        "folder 'local', where your own runs go, is left out unless you give it"
    ))  # fmt: skip
    parser.add_argument("--reference", metavar="RESULTS", action="append", type=Path, help=(
        "records that submitted ones are held against (repeatable; default: pocket/ in the tree of results that a "
        "submission lies in)"
    ))  # fmt: skip


def execute(options: argparse.Namespace) -> int:
    """Check records; print a line per bad one and the counts.

    Returns:
        The exit code: 2 when a record is not valid.
    """
    from basisbench.submissions.validate import validate

    report = validate(options.paths, options.reference)
    for line in report.lines():
        print(line, file=sys.stderr)
    print(report.counts())
    return 2 if report.problems else 0
