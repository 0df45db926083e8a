"""Finds the records of a path: files, folders of records, and submissions, which are checked as a whole.

1. A path is a file, which is a record, or a folder, which is searched at any depth up to `safe_files.DEPTH`.
2. A folder with `submission.json`, and every folder in one named `submissions`, is a submission: it is not searched.
3. Elsewhere every `*.json` is a record, folders named `hardware`, the user's own runs (`store.is_local`) and the
   verification of a results folder left out.

Nothing outside a given folder is read: links to folders, and links to files elsewhere, are counted and not followed.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from basisbench.results.safe_files import DEPTH, ENTRIES
from basisbench.results.store import RECORDS_FOLDER, SUBMISSION_FILE, VERIFICATION_FILE, hint_of_local, is_local

FIGURES = "hardware"
"""A folder of this name below a given one holds performance figures, not records."""

SUBMISSIONS = "submissions"
"""A folder of this name holds submissions, a folder each."""

RESTORE = "restore the file or run the cell again"


@dataclass
class Notes:
    """What was met on the way.

    Attributes:
        problems: path to everything that is wrong with it, in the order in which it was found.
        links: links that were not followed.
    """

    problems: dict[Path, list[str]] = field(default_factory=dict)
    links: set[Path] = field(default_factory=set)

    def add(self, path: Path, problem: str) -> None:
        """Note what is wrong with a path, once."""
        known = self.problems.setdefault(path, [])
        if problem not in known:
            known.append(problem)


def find_records(
    root: Path,
    notes: Notes,
    found_submission: Callable[[Path], object],
    found_verification: Callable[[Path], object] = lambda _folder: None,
) -> Iterator[Path]:
    """Yield the record files of one path, by name, those of submissions left out; note what cannot be read.

    Args:
        root: a record, or a folder.
        notes: where problems and links are noted.
        found_submission: called with the folder of each submission.
        found_verification: called with every other folder that has a verification.
    """
    try:
        mode = root.stat().st_mode
    except OSError as error:
        notes.add(root, f"cannot be read: {error.strerror}; expected a record or a folder of records, check the path")
        return
    if not stat.S_ISDIR(mode):
        if _is_file(root, mode, notes):
            yield root
        return
    count = 0
    for path, is_submission in _walk(root, notes):
        count += 1
        if is_submission:
            found_submission(path)
            continue
        if path.name == VERIFICATION_FILE and (path.parent / RECORDS_FOLDER).is_dir():
            found_verification(path.parent)
            continue
        try:
            mode = path.stat().st_mode
        except OSError as error:
            notes.add(path, f"cannot be read: {error.strerror}; {RESTORE}")
            continue
        if _is_file(path, mode, notes):
            yield path
    if count == 0 and root not in notes.problems:
        problem = "holds no records; expected *.json files there or in folders below, check the path"
        notes.add(root, problem + hint_of_local(root))


def _walk(root: Path, notes: Notes) -> Iterator[tuple[Path, bool]]:
    """Yield files named `*.json` and, marked by true, folders of submissions."""

    def unreadable(error: OSError) -> None:
        notes.add(Path(error.filename), f"cannot be read: {error.strerror}; allow reading, or give another path")

    inside = Path(os.path.realpath(root))
    if _is_submission(root):
        yield root, True
        return
    entries = 0
    for folder, folders, names in os.walk(root, onerror=unreadable):
        here = Path(folder)
        entries += len(folders) + len(names)
        if entries > ENTRIES:
            notes.add(root, f"holds more than {ENTRIES} files and folders; what comes after {here} was not read")
            return
        kept: list[str] = []
        for name in sorted(folders):
            path = here / name
            if path.is_symlink():
                notes.links.add(path)
            elif name == FIGURES or is_local(path, root):
                continue
            elif _is_submission(path):
                yield path, True
            else:
                kept.append(name)
        folders[:] = kept
        if kept and len(here.relative_to(root).parts) >= DEPTH:
            notes.add(here / kept[0], f"lies more than {DEPTH} folders deep; move it up, or give it as a path")
            folders[:] = []
        for name in sorted(names):
            path = here / name
            if not name.endswith(".json"):
                continue
            if path.is_symlink() and not Path(os.path.realpath(path)).is_relative_to(inside):
                notes.links.add(path)
            else:
                yield path, False


def _is_submission(folder: Path) -> bool:
    """Tell whether a folder is a submission, good or bad."""
    return os.path.lexists(folder / SUBMISSION_FILE) or folder.resolve().parent.name == SUBMISSIONS


def _is_file(path: Path, mode: int, notes: Notes) -> bool:
    """Tell whether this is an ordinary file: reading a pipe or a device might never end."""
    if not stat.S_ISREG(mode):
        notes.add(path, "expected a file, found a pipe, a socket or a device; remove it")
    return stat.S_ISREG(mode)
