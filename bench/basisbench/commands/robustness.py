"""Say how the ranking of bases moves when a choice is changed."""

from __future__ import annotations

import argparse
from pathlib import Path

from basisbench.commands.options import Commands, add_command, add_plugin, terminal_width


def add(commands: Commands) -> None:
    """Declare the command."""
    parser = add_command(
        commands,
        "robustness",
        "say how the ranking of bases moves when a choice is changed, and how numbers do from model to model",
        "Change one choice at a time (ablation, errors, scores, granularity, draws and numbers of pairs, method), as\n"
        "far as RESULTS have cells of it: Kendall's tau of the ranking of bases by nodes to 80% before and after,\n"
        "with its 95% interval, which pairs of bases turn, and how far their numbers move. Where RESULTS are of\n"
        "several models (seeds of one, trainings of its dictionaries): each basis over neurons, with an interval over\n"
        "models. No model is loaded.\n"
        "RESULTS are results folders, folders of records, or record files; the suite `robust` makes such cells.",
        "examples:\n  basisbench run robust --out results/local/robust\n"
        "  basisbench robustness results/local/robust\n"
        "  basisbench robustness results/pocket --method ig --csv robustness.csv --plot robustness.png\n",
    )
    parser.add_argument("results", metavar="RESULTS", nargs="+", type=Path, help="where the records are")
    parser.add_argument("--task", metavar="NAME", action="append", default=[], help="only this task (repeatable)")
    parser.add_argument("--basis", metavar="NAME", action="append", default=[], help="only this basis (repeatable)")
    parser.add_argument("--method", metavar="NAME", help="method of the reference (default: that of most cells)")
    parser.add_argument("--csv", metavar="FILE", help="write every number, task by task, as CSV; - for standard output")
    parser.add_argument("--plot", metavar="FILE", type=Path, help="draw it: NAME.png, .svg or .pdf")
    add_plugin(parser)


def execute(options: argparse.Namespace) -> None:
    """Print how rankings move, and write and draw it where asked."""
    import pandas as pd

    from basisbench.plots.save import refuse_name, save_figure
    from basisbench.registry import load_registry
    from basisbench.results.compare import refuse_absent
    from basisbench.results.draw_spread import draw_spread
    from basisbench.results.frame import read_results
    from basisbench.results.over_models import over_models
    from basisbench.results.record import write_whole
    from basisbench.results.robustness import changes_of, robustness
    from basisbench.results.robustness_tables import NOTES, OVER_NOTES, csv_of, robustness_tables
    from basisbench.results.tables import plain_text, wrapped

    refuse_name(options.plot, "--plot")
    records = read_results(options.results)
    for column, names in (("task", options.task), ("basis", options.basis)):
        refuse_absent(column, names, sorted({str(getattr(record.cell, column)) for record in records}))
        records = [record for record in records if not names or getattr(record.cell, column) in names]
    display = load_registry(options.plugin).display()
    asked = [record for record in records if options.method in (None, record.cell.method)]
    over = over_models(asked, display) if asked else pd.DataFrame()
    # Where nothing but the model changes there is no ranking to tell of, and the other table says all.
    quiet = len(over) and options.plot is None
    found = (changes_of if quiet else robustness)(records, display, method=options.method)
    spread = draw_spread(records, display)
    if options.plot:
        from basisbench.plots.robustness import plot_robustness

        save_figure(plot_robustness(found, display), options.plot)
    if options.csv == "-":
        print(csv_of([found, spread, over]), end="")
        return
    if options.csv:
        write_whole(options.csv, csv_of([found, spread, over]))
    width = terminal_width()
    tables = [plain_text(table, width) for table in robustness_tables(found, spread, over, display)]
    notes = [wrapped(text, width) for text, table in ((NOTES, found), (OVER_NOTES, over)) if len(table)]
    print("\n\n".join([*tables, *notes]))
