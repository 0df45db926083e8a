"""Compare bases in a table."""

from __future__ import annotations

import argparse
from pathlib import Path

from basisbench.commands.options import Commands, add_command, add_plugin, terminal_width


def add(commands: Commands) -> None:
    """Declare the command."""
    parser = add_command(
        commands,
        "compare",
        "compare bases in a table",
        "Compare bases: nodes and bits to a target faithfulness with 95% bootstrap intervals, areas, fit, seconds;\n"
        "medians over the tasks of a suite; best marks for all that cannot be told from the best.\n"
        "RESULTS are results folders, folders of records, or record files.",
        "examples:\n  basisbench compare results/local\n"
        "  basisbench compare results/local --task ioi --method relp\n"
        "  basisbench compare results/pocket results/local/mine --csv -\n"
        "  basisbench compare results/paper --reported paper\n",
    )
    parser.add_argument("results", metavar="RESULTS", nargs="+", type=Path, help="where the records are")
    parser.add_argument("--task", metavar="NAME", action="append", default=[], help="only this task (repeatable)")
    parser.add_argument("--method", metavar="NAME", action="append", default=[], help="only this method (repeatable)")
    parser.add_argument("--csv", metavar="FILE", help="write every column as CSV; - for standard output")
    parser.add_argument("--markdown", metavar="FILE", help="write the full tables as Markdown; - for standard output")
    parser.add_argument("--reported", metavar="SUITE", help=(
        "put the values that others reported for a suite beside ours, for example 'paper'"
    ))  # fmt: skip
    add_plugin(parser)


def execute(options: argparse.Namespace) -> None:
    """Print the comparison of results, and write it where asked."""
    from basisbench.registry import load_registry
    from basisbench.results.compare import csv_text, render_markdown, render_text, select
    from basisbench.results.frame import summarise
    from basisbench.results.record import write_whole

    summary = select(summarise(options.results), options.task, options.method)
    display = load_registry(options.plugin).display()
    if options.csv == "-":
        print(csv_text(summary, display), end="")
    elif options.csv:
        write_whole(options.csv, csv_text(summary, display))
    if options.markdown == "-":
        print(render_markdown(summary, display), end="")
    elif options.markdown:
        write_whole(options.markdown, render_markdown(summary, display))
    if options.reported:
        from basisbench.results.frame import load_results
        from basisbench.results.reported import read_reported, render_reported

        results = select(load_results(options.results), options.task, options.method)
        print(render_reported(results, read_reported(options.reported), terminal_width()))
    elif "-" not in (options.csv, options.markdown):
        print(render_text(summary, display, width=terminal_width()))
