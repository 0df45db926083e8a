"""Where records come from: results folders, and what stands behind the numbers of each.

1. Find the record files of every path and the results folder that each belongs to.
2. Read the records of each folder. Two records of one cell are an error, wherever they lie.
3. A folder with a `submission.json` is a submission: its card says who made it. Whether a folder's numbers were checked
   by running some of them again is its standing (`basisbench.submissions.verification`).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from basisbench.results.frame import PathLike, read_each, record_files, record_order
from basisbench.results.record import Record
from basisbench.results.store import RECORDS_FOLDER, SUBMISSION_FILE
from basisbench.submissions.submission import Submission, read_submission
from basisbench.submissions.verification import Standing, Verification, read_verification, standing


@dataclass(frozen=True)
class Cell:
    """A record and the file that it was read from."""

    record: Record
    file: Path


@dataclass(frozen=True)
class Source:
    """A results folder.

    Attributes:
        name: what the page calls it: the submission's name, or the folder's.
        folder: the folder.
        status: what stands behind its numbers.
        card: what a submission says about itself, None for a run that is none.
        cells: its cells, in the order of tables.
        verification: who ran its cells again, None unless the status is "verified".
    """

    name: str
    folder: Path
    status: Standing
    card: Submission | None
    cells: tuple[Cell, ...]
    verification: Verification | None = None


def read_sources(paths: PathLike | Sequence[PathLike]) -> list[Source]:
    """Read results folder by folder, runs that are no submissions first.

    Args:
        paths: results folders, folders of records, record files, or trees of those.

    Raises:
        RecordError: a path holds no record, a record or a submission's card is malformed, or two files hold
            records of one cell.
    """
    listed = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    files = dict.fromkeys(file.resolve() for path in listed for file in record_files(Path(path)))
    by_folder: dict[Path, list[Cell]] = {}
    for file, record in read_each(files).items():
        by_folder.setdefault(_results_folder(file), []).append(Cell(record, file))
    sources = [_read_source(folder, own) for folder, own in by_folder.items()]
    sources.sort(key=lambda source: (source.card is not None, source.name, str(source.folder)))
    return _distinctly_named(sources)


def _results_folder(file: Path) -> Path:
    """Return the results folder of a record file: above `records/`, or the folder that holds the file."""
    return file.parent.parent if file.parent.name == RECORDS_FOLDER else file.parent


def _read_source(folder: Path, own: Sequence[Cell]) -> Source:
    card = read_submission(folder) if (folder / SUBMISSION_FILE).is_file() else None
    cells = tuple(sorted(own, key=lambda cell: record_order(cell.record)))
    status = standing(folder)
    verification = read_verification(folder) if status == "verified" else None
    return Source(folder.name if card is None else card.name, folder, status, card, cells, verification)


def _distinctly_named(sources: Sequence[Source]) -> list[Source]:
    """Number the names that would otherwise be the same."""
    names = [source.name for source in sources]
    return [
        source
        if names.count(source.name) == 1
        else replace(source, name=f"{source.name} ({names[: index + 1].count(source.name)})")
        for index, source in enumerate(sources)
    ]
