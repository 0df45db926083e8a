"""Write a page of results."""

from __future__ import annotations

import argparse
from pathlib import Path

from basisbench.commands.options import Commands, add_command, add_plugin


def add(commands: Commands) -> None:
    """Declare the command."""
    parser = add_command(
        commands,
        "report",
        "write a page of results that opens from disk",
        "Write a page that opens from disk, without a server or a network: a leaderboard to sort and filter, curves\n"
        "with bands, cost against sparsity, and a page per cell with its provenance and example prompts of its top\n"
        "nodes. RESULTS are results folders, folders of records, record files, or a tree such as 'results' that holds\n"
        "a reference run and submissions. DIR is replaced if an earlier report wrote it, and refused if it holds\n"
        "anything else.",
        "examples:\n  basisbench report results/local --out page\n  basisbench report results --out page\n",
    )
    parser.add_argument("results", metavar="RESULTS", nargs="+", type=Path, help="where the records are")
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="folder for the page")
    add_plugin(parser)


def execute(options: argparse.Namespace) -> None:
    """Write the page and print its path."""
    from basisbench.registry import load_registry
    from basisbench.report import write_report

    print(write_report(options.results, options.out, registry=load_registry(options.plugin)))
