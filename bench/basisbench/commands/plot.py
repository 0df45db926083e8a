"""Draw pictures of results."""

from __future__ import annotations

import argparse
from pathlib import Path

from basisbench.commands.options import Commands, add_command


def add(commands: Commands) -> None:
    """Declare the command."""
    parser = add_command(
        commands,
        "plot",
        "draw pictures of results",
        "Draw faithfulness and completeness against circuit size, and cost against size.\n"
        "RESULTS is a results folder, a folder of records, or a record file.",
        "example:\n  basisbench plot results/local --out pictures\n",
    )
    parser.add_argument("results", metavar="RESULTS", type=Path, help="where the records are")
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="folder for the pictures")


def execute(options: argparse.Namespace) -> None:
    """Draw the pictures of results and print their paths."""
    from basisbench.frame import read_results
    from basisbench.plot import plot_results
    from basisbench.plot_panels import undisturbed

    records = read_results(options.results)
    with undisturbed():
        for path in plot_results(records, options.out):
            print(path)
