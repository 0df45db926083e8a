"""Draw pictures of results."""

from __future__ import annotations

import argparse
from pathlib import Path

from basisbench.commands.options import Commands, add_command, add_plugin


def add(commands: Commands) -> None:
    """Declare the command."""
    parser = add_command(
        commands,
        "plot",
        "draw pictures of results",
        "Draw faithfulness and completeness against circuit size, and cost against size.\n"
        "RESULTS is a results folder, a folder of records, or a record file.\n\n"
        "The style 'paper' makes figures for print, in their final size with 8 and 7 point fonts: no title inside,\n"
        "and beside each NAME.pdf, NAME.svg and NAME.png a NAME.tex with its caption, for\n"
        "\\caption{\\protect\\input{NAME.tex}}.",
        "examples:\n  basisbench plot results/local --out pictures\n"
        "  basisbench plot results/local --out figures --style paper --width page --format pdf\n",
    )
    parser.add_argument("results", metavar="RESULTS", type=Path, help="where the records are")
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="folder for the pictures")
    parser.add_argument("--style", choices=("ordinary", "paper"), default="ordinary", help="for reading, or for print")
    parser.add_argument("--format", metavar="LIST", help=(
        "png, svg, pdf, several with commas; default: png, and all three in the style 'paper'"
    ))  # fmt: skip
    parser.add_argument("--width", metavar="WIDTH", help=(
        "of paper figures: column (3.3 inches, the default), page (6.9 inches), or inches"
    ))  # fmt: skip
    add_plugin(parser)


def execute(options: argparse.Namespace) -> None:
    """Draw the pictures of results and print their paths."""
    from basisbench.errors import BasisBenchError
    from basisbench.plots.look import inches
    from basisbench.plots.pictures import checked_formats, plot_results
    from basisbench.registry import load_registry
    from basisbench.results.frame import read_results

    if options.width is not None and options.style != "paper":
        raise BasisBenchError("--width is for --style paper; ordinary pictures take the width that their panels need")
    names = None if options.format is None else [name.strip() for name in options.format.split(",")]
    formats = checked_formats(names, options.style)
    width = inches(options.width or "column")
    display = load_registry(options.plugin).display()
    records = read_results(options.results)
    for path in plot_results(records, options.out, formats=formats, style=options.style, width=width, display=display):
        print(path)
