"""Write the numbers of a text anew from records."""

from __future__ import annotations

import argparse
from pathlib import Path

from basisbench.commands.options import Commands, add_command


def add(commands: Commands) -> None:
    """Declare the command."""
    parser = add_command(
        commands,
        "findings",
        "write the numbers of a text anew from records",
        "Write anew every number that stands in a Markdown file between two comments, from the records that the first\n"
        "comment names: <!-- nodes_to_80 pocket task=ioi basis=mlp_act method=relp -->1,354 [...]<!-- / -->\n"
        "Columns are those of `compare --csv`; without a task it is the median over tasks; after a slash stands what\n"
        "differs in a second cell, and the number is the ratio of both.",
        "examples:\n  basisbench findings results/FINDINGS.md\n  basisbench findings results/FINDINGS.md --check\n",
    )
    parser.add_argument("file", metavar="FILE", type=Path, help="the text; folders are looked up beside it")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 where a number is not the records'")


def execute(options: argparse.Namespace) -> int:
    """Write a text anew, or tell where it differs from the records."""
    from basisbench.errors import BasisBenchError
    from basisbench.results.findings import written_anew
    from basisbench.results.record import write_whole

    try:
        text = options.file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BasisBenchError(f"{options.file}: cannot be read as UTF-8 text; give a Markdown file") from error
    try:
        anew = written_anew(text, options.file.parent)
    except BasisBenchError as error:
        raise BasisBenchError(f"{options.file}: {error}") from error
    lines = list(zip(text.splitlines(), anew.splitlines(), strict=True))
    changed = [number for number, (old, new) in enumerate(lines, start=1) if old != new]
    for number in changed:
        print(f"{options.file}, line {number}: " + ("is not what the records say" if options.check else "written anew"))
    if changed and not options.check:
        write_whole(options.file, anew)
    if not changed:
        print(f"{options.file}: every number is the records'")
    return int(bool(changed) and options.check)
