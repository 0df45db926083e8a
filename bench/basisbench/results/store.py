"""The results folder: `OUT/records/<id>.json`, one file per finished cell.

1. A cell is finished when its file exists, is valid, and holds that very cell.
2. A file appears whole or not at all (`basisbench.results.record.write_record`).
3. What a killed run left behind is a temporary file that nobody reads; a later run clears it away.

Reading results into tables is `basisbench.results.frame`'s work.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from basisbench.errors import RecordError
from basisbench.results.record import TEMPORARY_SUFFIX, Record, read_record, write_record, write_whole
from basisbench.results.safe_files import RECORD_BYTES

RECORDS_FOLDER = "records"
SUBMISSION_FILE = "submission.json"
VERIFICATION_FILE = "verification.json"
"""What a results folder may hold besides: whose its records are, and who ran some of them again."""

LOCAL_FOLDER = "local"
"""Where a user's own runs go in a tree of results, unless they are told another folder."""

STALE_SECONDS = 60.0
"""A temporary file lives for milliseconds; one older than this belongs to a run that was killed."""


def file_name(cell_id: str) -> str:
    """Return the name of a cell's record file."""
    return f"{cell_id}.json"


def is_local(folder: Path, tree: Path) -> bool:
    """Tell whether a folder holds a user's own runs, which are no part of the tree of results that they lie in.

    Whoever means them gives their own path. A submission of that name is one like any other.

    Args:
        folder: a folder below the tree.
        tree: the path that is searched for records.
    """
    return folder.name == LOCAL_FOLDER and folder.parent == tree and not (folder / SUBMISSION_FILE).exists()


def hint_of_local(tree: Path) -> str:
    """Say where a user's own runs are, for a message that a tree holds no records; nothing where there are none."""
    return f"; your own runs are in {tree / LOCAL_FOLDER}: give that path" if (tree / LOCAL_FOLDER).is_dir() else ""


@dataclass(frozen=True)
class Store:
    """The records of one results folder.

    Attributes:
        folder: the results folder; `records/` inside it is made on the first write.
    """

    folder: Path

    @property
    def records(self) -> Path:
        """The folder that holds the record files."""
        return self.folder / RECORDS_FOLDER

    def path(self, cell_id: str) -> Path:
        """Return the file of a cell, whether or not it exists."""
        return self.records / file_name(cell_id)

    def finished(self, cell_id: str) -> Record | None:
        """Return the record of a cell if it is finished, else None.

        A damaged file, or one that holds another cell, counts as unfinished: the run writes it anew.
        """
        path = self.path(cell_id)
        if not path.exists():
            return None
        try:
            record = read_record(path)
        except RecordError:
            return None
        return record if record.id == cell_id else None

    def ready(self) -> None:
        """Make sure that a record could be kept: a file as large as a record may be is written and deleted.

        Raises:
            RecordError: the folder cannot be written, or the disk is full.
        """
        path = self.records / f".{os.getpid()}"
        try:
            write_whole(path, " " * RECORD_BYTES)
            path.unlink()
        except (RecordError, OSError) as error:
            cause = error.__cause__ or error
            raise RecordError(f"{self.records}: cannot be written: {getattr(cause, 'strerror', cause)}") from cause

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Make sure that records can be kept; folders that this has made and that are empty at the end are removed.

        Raises:
            RecordError: the folder cannot be written, or the disk is full.
        """
        made = [folder for folder in (self.records, *self.records.parents) if not folder.exists()]
        try:
            self.ready()
            self.remove_stale()
            yield
        finally:
            with suppress(OSError):
                for folder in made:
                    folder.rmdir()

    def write(self, record: Record) -> Path:
        """Write a record under its id and return the file.

        Raises:
            RecordError: the folder cannot be written.
        """
        path = self.path(record.id)
        write_record(record, path)
        return path

    def remove_stale(self, older_than: float = STALE_SECONDS) -> int:
        """Delete temporary files that killed runs left behind.

        Args:
            older_than: age in seconds; younger ones may belong to a run that is writing now.

        Returns:
            How many were deleted.
        """
        now = time.time()
        removed = 0
        for path in self.records.glob(f".*{TEMPORARY_SUFFIX}"):
            try:
                if now - path.stat().st_mtime > older_than:
                    path.unlink()
                    removed += 1
            except FileNotFoundError:  # another run cleared it away first
                continue
        return removed
