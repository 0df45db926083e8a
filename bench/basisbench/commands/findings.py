"""Write the numbers of a text anew from records."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from basisbench.commands.options import Commands, add_command
from basisbench.errors import BasisBenchError

if TYPE_CHECKING:
    from basisbench.results.findings import RecordTables


def add(commands: Commands) -> None:
    """Declare the command."""
    parser = add_command(
        commands,
        "findings",
        "write the numbers of texts anew from records",
        "Write anew every number that stands in Markdown files between two comments, from the records that the first\n"
        "comment names: <!-- nodes_to_80 pocket task=ioi basis=mlp_act method=relp -->1,354 [...]<!-- / -->\n"
        "Columns are those of `compare --csv`; without a task it is the median over tasks; after a slash stands what\n"
        "differs in a second cell, and the number is the ratio of both.",
        "examples:\n  basisbench findings results/FINDINGS.md\n  basisbench findings results/FINDINGS.md --check\n",
    )
    parser.add_argument(
        "files", metavar="FILE", type=Path, nargs="+", help="a text; the folders that it names are looked up beside it"
    )
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 where a number is not the records'")


def execute(options: argparse.Namespace) -> int:
    """Write texts anew, or tell where they differ from the records."""
    from basisbench.results.findings import RecordTables

    tables = RecordTables()
    changed = [_written(file, tables, check=options.check) for file in options.files]
    return int(any(changed) and options.check)


def _written(file: Path, tables: RecordTables, *, check: bool) -> bool:
    """Write a text anew, or tell where it differs; return whether it does."""
    from basisbench.results.findings import written_anew
    from basisbench.results.record import write_whole

    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BasisBenchError(f"{file}: cannot be read as UTF-8 text; give a Markdown file") from error
    try:
        anew = written_anew(text, file.parent, tables)
    except BasisBenchError as error:
        raise BasisBenchError(f"{file}: {error}") from error
    lines = list(zip(text.splitlines(), anew.splitlines(), strict=True))
    changed = [number for number, (old, new) in enumerate(lines, start=1) if old != new]
    for number in changed:
        print(f"{file}, line {number}: " + ("is not what the records say" if check else "written anew"))
    if changed and not check:
        write_whole(file, anew)
    if not changed:
        print(f"{file}: " + ("every number is the records'" if "<!-- / -->" in text else "no number is marked"))
    return bool(changed)
