"""Checks the folder of a submission: what lies in it, and that its metadata and its records belong together.

1. It holds `submission.json`, `records/` and what `submission.FILES` names besides; anything else belongs to nothing.
   Links are refused, whatever they point to: what is submitted lies in the folder.
2. Numbers and sizes stay within the limits of `basisbench.results.safe_files`.
3. The folder has the submission's name; each record that the metadata names is there, byte by byte, and no other.
4. Every basis and method of a record has details; a basis that does not come with BasisBench has parameters and, if it
   was trained, says what that took.
5. What does not come with BasisBench has passed its contract tests (`checked`).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from basisbench.errors import RecordError
from basisbench.registry import built_in
from basisbench.results.record import Record
from basisbench.results.safe_files import METADATA_BYTES, SUBMISSION_BYTES, SUBMISSION_RECORDS, TOO_LARGE, read_bounded
from basisbench.results.store import RECORDS_FOLDER, SUBMISSION_FILE, VERIFICATION_FILE
from basisbench.submissions.checked import missing_checks
from basisbench.submissions.find_records import Notes
from basisbench.submissions.submission import FILES, Submission, read_submission
from basisbench.submissions.verification import check_verification


def list_submission(folder: Path, notes: Notes) -> tuple[Path, ...]:
    """Return the record files of a submission's folder, by name; note what does not belong there.

    Args:
        folder: the submission's folder.
        notes: where problems are noted.
    """
    for path in _entries(folder, notes):
        if path.name not in (*FILES, RECORDS_FOLDER):
            notes.add(path, f"belongs to nothing in a submission; expected {RECORDS_FOLDER}/ and {', '.join(FILES)}")
        elif path.name == RECORDS_FOLDER and not path.is_dir():
            notes.add(path, "expected a folder of records")
        elif path.name == VERIFICATION_FILE:
            check_verified(folder, notes)
        elif path.name in FILES:
            _check_text(path, notes)
    records: list[Path] = []
    total = 0
    for path in _entries(folder / RECORDS_FOLDER, notes):
        if not path.name.endswith(".json") or not path.is_file():
            notes.add(path, "belongs to nothing in a submission; expected records, files named CELL-ID.json")
            continue
        records.append(path)
        total += path.stat().st_size
    if len(records) > SUBMISSION_RECORDS:
        notes.add(folder, f"holds {len(records)} records, but at most {SUBMISSION_RECORDS} are allowed; divide it")
        return ()
    if total > SUBMISSION_BYTES:
        notes.add(folder, f"holds {TOO_LARGE.format(size=total, limit=SUBMISSION_BYTES)}; divide it")
        return ()
    if not records:
        notes.add(folder, f"holds no records; expected *.json in {RECORDS_FOLDER}/")
    return tuple(records)


def check_verified(folder: Path, notes: Notes) -> None:
    """Note what is wrong with the verification of a folder; that it is of other records is no fault of its file.

    Args:
        folder: a results or submission folder.
        notes: where problems are noted.
    """
    path = folder / VERIFICATION_FILE
    for problem in check_verification(folder):
        notes.add(path, f"{problem.removeprefix(f'{path}: ')}; remove it, or run basisbench verify again")


def check_metadata(
    folder: Path, files: Iterable[Path], digests: Mapping[Path, str], records: Iterable[Record], notes: Notes
) -> None:
    """Check that the metadata of a submission fits its records.

    Args:
        folder: the submission's folder.
        files: its record files, good or bad.
        digests: SHA-256 of those that could be read.
        records: the good ones.
        notes: where problems are noted.
    """
    path = folder / SUBMISSION_FILE
    try:
        submission = read_submission(folder)
    except RecordError as error:
        notes.add(path, f"{str(error).removeprefix(f'{path}: ')}; correct the file")
        return
    name = folder.resolve().name
    if submission.name != name:
        notes.add(path, f"name: found '{submission.name}', but the folder is '{name}'; expected one name")
    present = {file.name: file for file in files}
    for file in sorted(submission.records.keys() - present.keys()):
        notes.add(path, f"records: {file} is named, but {RECORDS_FOLDER}/ does not hold it")
    for file in sorted(present.keys() - submission.records.keys()):
        notes.add(present[file], f"belongs to nothing: {SUBMISSION_FILE} does not name it; remove it, or submit again")
    for file in sorted(present.keys() & submission.records.keys()):
        digest = digests.get(present[file])
        if digest is not None and digest != submission.records[file]:
            expected = submission.records[file]
            notes.add(
                present[file],
                f"its SHA-256 is {digest[:12]}..., but {SUBMISSION_FILE} says {expected[:12]}...; restore the file, or "
                "submit again",
            )
    records = tuple(records)
    for problem in (*missing_details(submission, records), *missing_checks(submission, records)):
        notes.add(path, f"{problem}; correct the file")


def missing_details(submission: Submission, records: Iterable[Record]) -> Iterator[str]:
    """Yield what the metadata does not say about the bases and methods of the records, or says about others.

    Args:
        submission: the metadata.
        records: the records.
    """
    records = tuple(records)
    bases = {record.cell.basis for record in records}
    methods = {record.cell.method for record in records}
    for field, found, given in (("bases", bases, submission.bases), ("methods", methods, submission.methods)):
        for name in sorted(found - given.keys()):
            yield f"{field}: lacks '{name}', which a record names"
        if records:
            for name in sorted(given.keys() - found):
                yield f"{field}: '{name}' is named, but no record has it"
    trained = {record.cell.basis for record in records if record.identities.dictionary is not None}
    for name in sorted(new_bases(records) & submission.bases.keys()):
        details = submission.bases[name]
        if not details.parameters:
            yield f"bases.{name}.parameters: is empty, but this basis does not come with BasisBench: say what it is"
        if name in trained and details.training_cost is None:
            yield f"bases.{name}.training_cost: is null, but this basis was trained: say what that took"


def new_bases(records: Iterable[Record]) -> set[str]:
    """Return the bases that neither come with BasisBench nor are published where everybody can load them."""
    registry = built_in()
    known = {entry.name for entry in registry.of("basis")}
    return {
        record.cell.basis
        for record in records
        if record.cell.basis not in known
        and not (registry.scheme_of("basis", record.cell.basis) and (record.sources or record.guard is None))
    }


def _entries(folder: Path, notes: Notes) -> Iterator[Path]:
    """Yield what a folder holds, by name, links left out and noted."""
    try:
        with os.scandir(folder) as entries:
            names = sorted(entry.name for _, entry in zip(range(SUBMISSION_RECORDS + 100), entries, strict=False))
    except FileNotFoundError:
        return
    except OSError as error:
        notes.add(folder, f"cannot be read: {error.strerror}; expected a folder")
        return
    for name in names:
        if stat.S_ISLNK((folder / name).lstat().st_mode):
            notes.add(folder / name, "is a link; expected the file itself: nothing outside a submission is read")
        else:
            yield folder / name


def _check_text(path: Path, notes: Notes) -> None:
    """Note a file that is too large or no text."""
    try:
        data = read_bounded(path, METADATA_BYTES)
        if path.suffix == ".md":
            data.decode()
    except UnicodeDecodeError as error:
        notes.add(path, f"expected text in UTF-8, found another byte at {error.start}")
    except RecordError as error:
        notes.add(path, str(error))
