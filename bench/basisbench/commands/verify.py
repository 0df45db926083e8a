"""Run a random sample of a folder's cells again, and say who found what."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from basisbench.commands.options import Commands, absolute, add_command, add_plugin, positive
from basisbench.version import __version__

if TYPE_CHECKING:
    from basisbench.runs.verify import Sample
    from basisbench.submissions.verification_fields import Deviation, VerifiedCell

_SHARES = (0.05, 0.1, 0.25)
"""Shares of forged cells for which the chance of finding one is printed."""


def add(commands: Commands) -> None:
    """Declare the command."""
    parser = add_command(
        commands,
        "verify",
        "re-run a random sample of records and sign what was found",
        "Run a random sample of a folder's cells again, with the settings of their records, and compare: identities\n"
        "of model, dictionary and pairs, then F(M), F(0), circuit and complement at every size, the top nodes, and\n"
        "what tables show of them. Scores and rankings are computed from nothing.\n\n"
        "A line per cell and a summary are printed, and verification.json is written into the folder, whether the\n"
        "sample passed or not: who ran what, on which hardware, the largest deviation. It holds for these records\n"
        "only: once one is edited, added or removed, the folder counts as self-reported again. Exit code 0:\n"
        "verified; 2: not verified, or a mistake, after which nothing is written.\n\n"
        "Models and dictionaries that the records name are loaded, from the Hugging Face hub too. Plug-ins run as\n"
        "your own code does: read a stranger's first.",
        "examples:\n"
        "  basisbench verify results/submissions/mine --by 'Ada Lovelace'\n"
        "  basisbench verify results/pocket --by me --cells 40\n"
        "  basisbench verify results/local/mine --by me --cells all --device cuda --plugin mine.py\n"
        "  basisbench verify results/local/mine --dry-run --seed 7        what would be re-run",
    )
    parser.add_argument("path", metavar="PATH", type=Path, help="submission or results folder: what holds records/")
    parser.add_argument("--by", metavar="NAME", help="your name, for the file; needed unless --dry-run")
    parser.add_argument("--cells", metavar="N", type=_count, default=20, help="cells to re-run, or all (default: 20)")
    parser.add_argument("--points", metavar="K", type=_count, default="all", help=(
        "sizes compared in each, besides 0 and all nodes: those around nodes_to and settled_to, then random ones; "
        "what is altered at another one is not seen (default: all)"
    ))  # fmt: skip
    parser.add_argument("--seed", metavar="S", type=_seed, help=(
        "seed of the draw (default: one that nobody can foresee; the file tells it)"
    ))  # fmt: skip
    parser.add_argument("--device", default="cpu", help="cpu (default), cuda, cuda:1, mps, ...")
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16", "float64"], help=(
        "type of the weights in the re-run (default: each record's own); compared with the coarser tolerance"
    ))  # fmt: skip
    parser.add_argument("--model", metavar="NAME=FOLDER", action="append", help=(
        "where a model of the records is that is not listed: a folder or a GGUF file, as run takes it (repeatable)"
    ))  # fmt: skip
    add_plugin(parser)
    parser.add_argument("--task-file", metavar="FILE", action="append", type=Path, default=[], help=(
        "file of pairs that is a task of the records (repeatable)"
    ))  # fmt: skip
    parser.add_argument("--out", metavar="FILE", type=Path, help="write the verification there, not into the folder")
    parser.add_argument("--dry-run", action="store_true", help="print the draw; nothing is loaded and nothing written")


def execute(options: argparse.Namespace) -> int:
    """Draw, re-run, print and write.

    Returns:
        The exit code: 2 when the sample did not pass.
    """
    from basisbench.errors import BasisBenchError
    from basisbench.pairs.task_rows import task_source
    from basisbench.results.schema import printable
    from basisbench.runs.verify import draw_sample, verify

    if not options.dry_run and not (options.by or "").strip():
        raise BasisBenchError("verify needs --by NAME: who vouches for it; --dry-run shows the draw without")
    sample = draw_sample(options.path, cells=options.cells, points=options.points, seed=options.seed)
    count = len(sample.drawn)
    print(f"drawn: {count} of {sample.cells_in_folder} cells, {options.points} sizes each, seed {sample.sampling.seed}")
    print(_detection(sample))
    if others := sorted({drawn.record.basisbench for drawn in sample.drawn} - {__version__}):
        print(
            printable(f"made by BasisBench {', '.join(others)}, re-run by {__version__}: numbers are compared, not ids")
        )
    sys.stdout.flush()
    if options.dry_run:
        for drawn in sample.drawn:
            cell, sizes = drawn.record.cell, ", ".join(map(str, drawn.sizes))
            print(f"{drawn.record.id}  {cell.model} {cell.task} {cell.basis} {cell.method}: sizes {sizes}")
        return 0
    done: list[VerifiedCell] = []

    def show(cell: VerifiedCell) -> None:
        done.append(cell)
        print(printable(f"[{len(done)}/{count}] {_describe(cell)}"), flush=True)

    found, path = verify(
        sample,
        by=options.by.strip(),
        out=options.out,
        device=options.device,
        dtype=options.dtype,
        models=options.model or (),
        plugins=absolute(options.plugin),
        task_files=tuple(map(task_source, options.task_file)),
        on_cell=show,
    )
    passed = sum(cell.passed for cell in done)
    verdict = "verified" if found.passed else "NOT verified"
    print(f"{verdict}: {passed} of {count} cells agree, largest deviation {found.largest:.2g}; written: {path}")
    return 0 if found.passed else 2


def _count(text: str) -> int | Literal["all"]:
    return "all" if text == "all" else positive(text)


def _seed(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 0 and 18 digits at most, found '{text}'")
    return int(text)


def _detection(sample: Sample) -> str:
    """Say how likely it is that forged cells are found."""
    from basisbench.submissions.sampling import detection

    count = len(sample.drawn)
    if count == sample.cells_in_folder:
        return "every cell is drawn: none that is forged at a compared size escapes"
    chances = ", ".join(f"{detection(share, count):.0%} if {share:.0%} are" for share in _SHARES)
    return f"chance to draw a forged cell, at least 1-(1-p)^{count} for a share p of forged ones: {chances}"


def _describe(cell: VerifiedCell) -> str:
    """Name a cell and say how far it lay from its record."""
    text = f"{cell.model} {cell.task} {cell.basis} {cell.method}"
    if cell.sizes:
        parts = (("F(M)", cell.full), ("F(0)", cell.empty), ("circuit", cell.circuit), ("complement", cell.complement))
        deviations = ", ".join(f"{name} {_place(part)}" for name, part in parts if part is not None)
        text += f": sizes {' '.join(map(str, cell.sizes))}; largest deviations: {deviations}"
    return f"{text}: ok" if cell.passed else f"{text}: NOT verified: {'; '.join(cell.problems)}"


def _place(part: Deviation) -> str:
    return f"{part.largest:.1g}" + ("" if part.size is None else f" (size {part.size}, example {part.example})")
